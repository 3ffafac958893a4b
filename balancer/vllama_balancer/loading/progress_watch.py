"""Waits until a model's workers can serve, have failed, or have stopped making progress."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

from vllama_balancer.errors import NoWorker
from vllama_balancer.fleet.events import Changed, ProcessState

if TYPE_CHECKING:
    from vllama_balancer.loading.resident import Resident
    from vllama_balancer.workers.changes import Changes
    from vllama_protos.v1 import worker_pb2

LOOK_SECONDS = 1.0
"""Progress within a phase is no change of state, so it is looked at this often."""


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


async def until_ready(pool: WatchedPool, resident: Resident, stall_seconds: float) -> None:
    """Returns when one of the model's workers serves.

    Raises NoWorker with the cause when all have been given up, or when none has made any progress for
    `stall_seconds` (0: no limit).
    """
    loop = asyncio.get_running_loop()
    progress: object = None
    moved_at = loop.time()
    while True:
        version = pool.changes.version
        workers = [worker for name in resident.workers if (worker := pool.find(name)) is not None]
        if any(not worker.unavailable for worker in workers):
            return
        if workers and all(worker.process.state is ProcessState.FAILED for worker in workers):
            raise NoWorker(f"the model could not be loaded: its worker {workers[0].process.reason}")
        if progress != (progress := [_progress(worker) for worker in workers]):
            moved_at = loop.time()
        if 0 < stall_seconds <= loop.time() - moved_at:
            raise NoWorker(
                f"the model could not be loaded: no progress for {stall_seconds:.0f} s; "
                "see the log, or raise --load-timeout"
            )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pool.changes.after(version), LOOK_SECONDS)


def _progress(worker: WatchedWorker) -> object:
    report = worker.report
    return (worker.process.pid, report and (report.boot_id, report.state, report.phase, report.progress))
