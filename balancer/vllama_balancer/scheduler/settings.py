"""Settings of the scheduler, and the interfaces through which it sees and starts workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vllama_balancer.change_counter import ChangeCounter
    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.events import Changed
    from vllama_protos.v1 import worker_pb2


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """When models are loaded and unloaded."""

    keep_alive_seconds: float = 300.0
    """How long an idle model stays; negative or infinite: forever."""
    max_loaded_models: int = 0
    """Most models at once; 0: as many as there are slots."""
    stall_seconds: float = 300.0
    """Longest time without progress of a worker that starts; 0: no limit."""
    max_waiting: int = 512
    """Requests that may wait for models to load."""
    scale_up_after_seconds: float = 3.0
    """A model that has been saturated for so long takes a free slot as well."""
    regrow_seconds: float = 60.0
    """A model that loses a replica within this time is not scaled up again for as long."""
    min_tenure_seconds: float = 30.0
    """A busy model serves for at least so long before it is paused for a waiting one."""
    min_residency_loads: float = 2.0
    """A model that was just evicted stays for so many of its load times, `min_tenure_seconds` at most."""
    gpu_release_seconds: float = 5.0
    """How long to wait for GPU memory that other programs hold."""
    sleep_seconds: float = 1800.0
    """How long an idle model sleeps in the host's memory where its engine can; 0: it ends at once."""
    failure_memory_seconds: float = 5.0
    """How long requests get the error of a failed load, before the next one loads the model again."""
    poll_seconds: float = 1.0
    """Time between two looks at how saturated the models are."""


class WorkerLauncher(Protocol):
    """Starts and ends workers: the local fleet, or one on Ray."""

    def add(self, spec: WorkerSpec, *, fail_fast: bool = False) -> None:
        """Starts a worker; with `fail_fast` a failed start is not tried again."""
        ...

    def owns(self, name: str) -> bool:
        """Returns whether a worker is kept alive; an operator may have retired it."""
        ...

    async def retire(self, name: str) -> None:
        """Drains and ends a worker; one that has left already is no error."""
        ...


class WatchedWorker(Protocol):
    """The part of a worker that the scheduler reads."""

    @property
    def process(self) -> Changed:
        """The last news of its process."""
        ...

    @property
    def report(self) -> worker_pb2.WorkerReport | None: ...

    @property
    def description(self) -> worker_pb2.DescribeResponse | None: ...

    @property
    def unavailable(self) -> str:
        """Why no request may go to it; empty while one may."""
        ...

    def candidate(self) -> object | None:
        """Returns None when it has no free stream."""
        ...


class WatchedPool(Protocol):
    """The part of the pool that the scheduler reads."""

    changes: ChangeCounter

    def find(self, name: str) -> WatchedWorker | None: ...
