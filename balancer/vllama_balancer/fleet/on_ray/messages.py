"""The messages between the balancer and its Ray driver: commands and events, one JSON line each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.fleet.assignment import HostedModel, WorkerSpec
from vllama_balancer.fleet.events import Added, Changed, Removed

if TYPE_CHECKING:
    from vllama_balancer.fleet.events import FleetEvent

LONGEST_LINE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker, and restart it when it ends."""

    spec: dict[str, Any]
    """A WorkerSpec as plain values."""
    fail_fast: bool = False
    """True if a failed start is not retried."""

    def worker_spec(self) -> WorkerSpec:
        model = HostedModel(self.spec["model"]["argument"], tuple(self.spec["model"]["names"]))
        return WorkerSpec(**{**self.spec, "model": model, "flags": tuple(self.spec["flags"])})


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
    """Drain and end all workers, then end the driver."""

    drain_seconds: float


@dataclass(frozen=True, slots=True)
class Connected:
    """The driver has reached the cluster."""

    cluster: str
    """Address of the cluster."""


DriverCommand = Start | Restart | Retire | Close
"""Messages to the driver."""
DriverEvent = Connected | Added | Changed | Removed
"""Messages from the driver."""

_KINDS = {kind.__name__: kind for kind in (Start, Restart, Retire, Close, Connected, Added, Changed, Removed)}


def encode(message: DriverCommand | FleetEvent | Connected) -> bytes:
    """Returns one line, with its end."""
    return msgspec.json.encode([type(message).__name__, message]) + b"\n"


def decode(line: bytes) -> Any:
    """Returns the message of one line. Raises ValueError for a line that is none."""
    try:
        name, body = msgspec.json.decode(line, type=tuple[str, dict[str, Any]])
        return msgspec.convert(body, _KINDS[name])
    except (msgspec.MsgspecError, KeyError) as error:
        raise ValueError(f"not a message: {error}") from None


def start_command(spec: WorkerSpec, *, fail_fast: bool) -> Start:
    return Start(asdict(spec) | {"environment": dict(spec.environment)}, fail_fast)
