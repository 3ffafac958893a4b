"""What the loading of models is told, and what it asks of the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.events import Changed
    from vllama_balancer.workers.changes import Changes
    from vllama_protos.v1 import worker_pb2


class WorkerLauncher(Protocol):
    """What starts and ends workers: the local fleet."""

    def add(self, spec: WorkerSpec, *, fail_fast: bool = False) -> None:
        """Starts a worker; one that gives up soon does not try a failed start again."""
        ...

    def owns(self, name: str) -> bool:
        """Tells whether a worker is kept alive; it may have been retired by hand."""
        ...

    async def retire(self, name: str) -> None:
        """Drains and ends a worker."""
        ...


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """How models come and go."""

    keep_alive_seconds: float = 300.0
    """How long an idle model stays; negative or infinite: for ever."""
    max_loaded_models: int = 0
    """Most models at once; 0: as many as there are places."""
    stall_seconds: float = 300.0
    """Longest time without progress of a worker that starts; 0: no limit."""
    max_waiting: int = 512
    """Requests that may wait for models to load."""
    scale_up_after_seconds: float = 3.0
    """A model whose workers have been full for so long takes a free place as well."""
    regrow_seconds: float = 60.0
    """A model that loses a place within this time after it got it asks for no other one for as long."""
    min_tenure_seconds: float = 30.0
    """A busy model serves for so long at least before it makes way for one that waits."""
    min_residency_loads: float = 2.0
    """A model that is wanted back at once serves for so many times its load, idle or not; a turn at most."""
    gpu_release_seconds: float = 5.0
    """How long memory of a GPU is waited for that nobody here can give back."""
    sleep_seconds: float = 1800.0
    """How long an idle model sleeps in the host's memory where its engine can; 0: it ends at once."""
    poll_seconds: float = 1.0
    """How often that is looked at."""


class WatchedWorker(Protocol):
    """What is asked of a worker."""

    @property
    def process(self) -> Changed:
        """What its supervisor said last."""
        ...

    @property
    def report(self) -> worker_pb2.WorkerReport | None:
        """Its last report."""
        ...

    @property
    def description(self) -> worker_pb2.DescribeResponse | None:
        """What it said of itself."""
        ...

    @property
    def unavailable(self) -> str:
        """Why no request may go to it; empty while one may."""
        ...

    def candidate(self) -> object | None:
        """What it would be picked by; None when it has no stream to spare."""
        ...


class WatchedPool(Protocol):
    """What is asked of the pool."""

    changes: Changes

    def find(self, name: str) -> WatchedWorker | None:
        """Finds a worker by name."""
        ...
