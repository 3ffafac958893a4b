"""What the balancer and its Ray driver say to each other: one JSON line for each order and each event.

The driver is a process of its own because Ray ends a process whose cluster has gone: that must cost the
balancer its Ray workers' supervision for a moment, and never itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.fleet.assignment import HostedModel, WorkerSpec
from vllama_balancer.fleet.events import Added, Changed, Removed

if TYPE_CHECKING:
    from vllama_balancer.fleet.events import FleetEvent


@dataclass(frozen=True, slots=True)
class Start:
    """Keep a worker alive from now on."""

    spec: dict[str, Any]
    """A WorkerSpec as plain values."""
    fail_fast: bool = False
    """Whether a failed start is not tried again."""

    def worker_spec(self) -> WorkerSpec:
        """Reads the specification."""
        return decode_spec(self.spec)


@dataclass(frozen=True, slots=True)
class Restart:
    """End a worker's process and start it again."""

    name: str
    drain_seconds: float


@dataclass(frozen=True, slots=True)
class Retire:
    """Drain a worker and end it for good."""

    name: str
    drain_seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """Drain all workers, end them and leave."""

    drain_seconds: float


@dataclass(frozen=True, slots=True)
class Connected:
    """The driver has reached the cluster."""

    cluster: str
    """The cluster's address."""


DriverCommand = Start | Restart | Retire | Close
"""Everything that the balancer says."""
DriverEvent = Connected | Added | Changed | Removed
"""Everything that the driver says."""

_KINDS = {kind.__name__: kind for kind in (Start, Restart, Retire, Close, Connected, Added, Changed, Removed)}


def encode(message: DriverCommand | FleetEvent | Connected) -> bytes:
    """Writes one message, with the line's end."""
    return msgspec.json.encode([type(message).__name__, message]) + b"\n"


def decode(line: bytes) -> Any:
    """Reads one message. Raises ValueError for a line that is none."""
    try:
        name, body = msgspec.json.decode(line, type=tuple[str, dict[str, Any]])
        return msgspec.convert(body, _KINDS[name])
    except (msgspec.MsgspecError, KeyError) as error:
        raise ValueError(f"not a message: {error}") from None


def start_command(spec: WorkerSpec, *, fail_fast: bool) -> Start:
    """Writes the order that starts a worker."""
    return Start(asdict(spec) | {"environment": dict(spec.environment)}, fail_fast)


def decode_spec(plain: dict[str, Any]) -> WorkerSpec:
    """Makes a WorkerSpec from plain values."""
    model = HostedModel(plain["model"]["argument"], tuple(plain["model"]["names"]))
    return WorkerSpec(**{**plain, "model": model, "flags": tuple(plain["flags"])})
