"""What a fleet source tells the pool: which workers there are, and what became of their processes.

A source (local processes, static addresses, DNS) is one async iterator of these events; the pool
follows it and does the rest by itself: it connects, watches, probes and ejects. So a source knows
processes and addresses but nothing of load, and the pool knows load but nothing of processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ProcessState(Enum):
    """What the source knows of a worker's process; what the worker says of itself comes by Watch."""

    RUNNING = "running"
    """The process runs, or the address is simply given; whether it is ready its reports tell."""
    PLACING = "placing"
    """No machine has room for the process yet; requests may wait for it."""
    RESTARTING = "restarting"
    """The process has ended and will be started again; requests may wait for it."""
    STOPPED = "stopped"
    """The process was asked to leave and is not started again."""
    FAILED = "failed"
    """The source has given up (a crash loop, a start that cannot succeed); nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Added:
    """A worker that is to be used from now on. A second one of the same name replaces the first."""

    name: str
    """Unique in the fleet: "worker-0"."""
    address: str
    """gRPC target: "unix:/path" or "host:port"; empty while no machine has room (Changed says PLACING)."""
    models: tuple[str, ...] = ()
    """Models it will serve, as far as the source knows; empty: only Describe will tell."""
    pid: int = 0
    """Process id on this machine; 0 when there is none."""
    restarts: int = 0
    """Times it was started again after it had died."""
    is_supervised: bool = False
    """Whether the source starts a worker of another machine again when it dies, or says that it is given up."""


@dataclass(frozen=True, slots=True)
class Changed:
    """News of a known worker's process. Its address stays the same."""

    name: str
    """As in Added."""
    state: ProcessState
    """What holds from now on."""
    reason: str = ""
    """Why, in one sentence for people; the root cause when FAILED."""
    pid: int = 0
    """Process id of the present life; 0 when none runs."""
    restarts: int = 0
    """Times it was started again so far."""
    retry_in_seconds: float | None = None
    """While RESTARTING: until the next start."""


@dataclass(frozen=True, slots=True)
class Removed:
    """A worker that has left for good. Its running streams move to others."""

    name: str
    """As in Added."""
    reason: str = ""
    """Why, in one sentence for people."""


FleetEvent = Added | Changed | Removed
"""Everything a source can say."""


class FleetSource(Protocol):
    """Where workers come from."""

    def events(self) -> AsyncIterator[FleetEvent]:
        """Yields what happens to the fleet, first the workers that are there already.

        Ends only when the source closes; a source whose workers never change just waits.
        """
        ...


class FleetControl(Protocol):
    """What a source can do to the workers that it has started itself.

    The caller has taken the worker out of placement and drained it before it calls, and waits
    for readiness afterwards by following the pool; the source only ends and starts processes,
    and tells what happened through its events.
    """

    def owns(self, name: str) -> bool:
        """Tells whether the source started this worker and can start it again."""
        ...

    async def restart(self, name: str) -> None:
        """Ends the worker's process and starts it again; returns when the new process runs."""
        ...

    async def retire(self, name: str) -> None:
        """Ends the worker's process and does not start it again (STOPPED, then Removed)."""
        ...
