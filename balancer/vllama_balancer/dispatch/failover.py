"""Decides what follows a failed try: another worker, or one clear error; and what the worker has it coming."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from vllama_balancer.dispatch.blame import KILLS_TO_QUARANTINE
from vllama_balancer.dispatch.failure import AttemptFailed, FailureKind
from vllama_balancer.errors import Quarantined

if TYPE_CHECKING:
    from vllama_balancer.metrics import Metrics
    from vllama_balancer.placement.placer import Ticket
    from vllama_balancer.workers.lease import Lease
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.worker import Worker

logger = logging.getLogger(__name__)

MOST_TRIES = 3
"""Tries without any progress between them: the first and two more."""
_UNTOUCHED = (FailureKind.REFUSED, FailureKind.BUSY, FailureKind.UNREACHABLE)

BUSY_SECONDS = 0.25
"""How long a worker with a full queue is left alone when it does not say."""


class Failover:
    """Judges failed tries."""

    def __init__(self, pool: Pool, metrics: Metrics) -> None:
        self._pool = pool
        self._metrics = metrics
        self._busy: dict[str, asyncio.TimerHandle] = {}

    def close(self) -> None:
        """Drops the timers of busy workers."""
        for timer in self._busy.values():
            timer.cancel()

    def judge_worker(self, lease: Lease, failure: AttemptFailed) -> None:
        """Draws the consequences for the worker. Call before the lease is released."""
        worker = lease.worker
        self._metrics.attempt_failed(worker.name, failure.kind.value)
        if lease.life is not worker.life:
            return
        if failure.kind in (FailureKind.LOST, FailureKind.UNREACHABLE):
            worker.lost(str(failure))
        elif failure.kind is FailureKind.REFUSED:
            worker.refuses()
        elif failure.kind is FailureKind.BUSY:
            self._leave_alone(worker, failure.error.retry_after_seconds or BUSY_SECONDS)
        elif failure.kind is FailureKind.FAULT:
            worker.breaker.failure(str(failure), may_eject=not self._pool.is_last(worker))
            worker.update()

    def next_try(self, ticket: Ticket, lease: Lease, failure: AttemptFailed, failures: int) -> int:
        """Prepares the ticket for another try and returns the failures counted so far.

        Raises the client's error when there is nothing left to try.
        """
        if failure.kind in (FailureKind.REJECTED, FailureKind.DEADLINE):
            raise failure.error
        ticket.is_returning = True
        ticket.needs_retry_budget = failure.kind is FailureKind.FAULT
        ticket.is_wary = failure.kind in (FailureKind.LOST, FailureKind.UNREACHABLE)
        if failure.kind is not FailureKind.BUSY:
            ticket.excluded.add(lease.life.boot_id)
        if failure.kind in _UNTOUCHED:
            return failures
        if failure.kind is FailureKind.LOST and lease.is_blamed:
            self._count_kill(ticket)
        if failures + 1 >= MOST_TRIES:
            raise failure.error
        return failures + 1

    def _count_kill(self, ticket: Ticket) -> None:
        ticket.kills += 1
        if ticket.kills >= KILLS_TO_QUARANTINE:
            self._metrics.quarantined()
            logger.error("request %s has killed %d workers and is not tried again", ticket.request_id, ticket.kills)
            raise Quarantined(f"the request has killed {ticket.kills} workers and is not tried again")

    def _leave_alone(self, worker: Worker, seconds: float) -> None:
        worker.busy(True)
        if (timer := self._busy.pop(worker.name, None)) is not None:
            timer.cancel()
        self._busy[worker.name] = asyncio.get_running_loop().call_later(seconds, self._try_again, worker)

    def _try_again(self, worker: Worker) -> None:
        self._busy.pop(worker.name, None)
        worker.busy(False)
