"""Waits until the fleet can serve, or until it is clear that it never will."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.errors import NoWorker
from vllama_balancer.fleet.events import ProcessState

if TYPE_CHECKING:
    from vllama_balancer.workers.pool import Pool


async def first_readiness(pool: Pool) -> None:
    """Returns when no worker is still starting and at least one serves. Nobody waits for one without a place.

    Raises NoWorker with the causes when every local worker has been given up. Static workers are waited
    for as long as it takes.
    """
    while True:
        workers = [worker for worker in pool.workers() if worker.process.state is not ProcessState.PLACING]
        given_up = [worker for worker in workers if worker.process.state is ProcessState.FAILED]
        ready = [worker for worker in workers if not worker.unavailable]
        if ready and len(ready) + len(given_up) == len(workers):
            return
        if workers and len(given_up) == len(workers):
            raise NoWorker("; ".join(dict.fromkeys(f"{worker.name} {worker.process.reason}" for worker in given_up)))
        await pool.changes.after(pool.changes.version)
