"""The events of a fleet source, and the interfaces between the fleet and the rest of the balancer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ProcessState(Enum):
    """State of a worker's process as its source sees it; the worker's own reports come by Watch."""

    RUNNING = "running"
    """The process runs, or its address was simply given; its reports say whether it is ready."""
    PLACING = "placing"
    """No machine has room for the process yet; requests may wait for it."""
    RESTARTING = "restarting"
    """The process has ended and will be started again; requests may wait for it."""
    STOPPED = "stopped"
    """The process was asked to end and is not started again."""
    FAILED = "failed"
    """The source has given up (starts fail again and again) for some minutes; no request waits for it."""


@dataclass(frozen=True, slots=True)
class Deaths:
    """The ends of a worker's processes that were not asked for."""

    count: int = 0
    reason: str = ""
    """Cause of the latest one, in the worker's own words."""


@dataclass(frozen=True, slots=True)
class Added:
    """A worker to use from now on. A second one of the same name replaces the first."""

    name: str
    """Unique in the fleet: "worker-0"."""
    address: str
    """gRPC target: "unix:/path" or "host:port"; empty while no machine has room (Changed says PLACING)."""
    models: tuple[str, ...] = ()
    """Models it will serve, as far as the source knows; empty: Describe will say."""
    pid: int = 0
    """Process id on this machine; 0 if there is none."""
    restarts: int = 0
    """Times it was started again after it had ended."""
    is_supervised: bool = False
    """True if the source restarts a worker of another machine when it ends, or marks it FAILED."""
    deaths: Deaths = Deaths()
    """Of its processes so far."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A change of a known worker's process. Its address stays the same."""

    name: str
    """As in Added."""
    state: ProcessState
    """State from now on."""
    reason: str = ""
    """Cause, in one sentence; the root cause for FAILED."""
    pid: int = 0
    """Process id; 0 while none runs."""
    restarts: int = 0
    """Times it was started again so far."""
    retry_in_seconds: float | None = None
    """For RESTARTING and FAILED: time until the next start."""
    deaths: Deaths = Deaths()
    """Of its processes so far."""


@dataclass(frozen=True, slots=True)
class Removed:
    """A worker that has left for good. Its running streams move to others."""

    name: str
    """As in Added."""
    reason: str = ""
    """Cause, in one sentence."""


FleetEvent = Added | Changed | Removed


class FleetSource(Protocol):
    """A source of workers."""

    def events(self) -> AsyncIterator[FleetEvent]:
        """Yields the events of the fleet, first those of the workers that exist already.

        Ends only when the source closes.
        """
        ...


class FleetControl(Protocol):
    """Ends and restarts the workers that a source has started itself.

    Before a call, the caller takes the worker out of placement and drains it. After it, the caller follows the pool
    until the worker is ready. The source only ends and starts processes, and reports that through its events.
    """

    def owns(self, name: str) -> bool:
        """Returns True if the source started this worker and can start it again."""
        ...

    async def restart(self, name: str) -> None:
        """Ends the worker's process and starts it again; returns when the new process runs."""
        ...

    async def retire(self, name: str) -> None:
        """Ends the worker's process and does not start it again (STOPPED, then Removed)."""
        ...
