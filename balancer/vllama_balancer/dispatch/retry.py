"""Decides whether to retry a failed attempt, and how to penalise the worker."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from vllama_balancer.errors import Quarantined
from vllama_balancer.workers.attempt_errors import AttemptFailed, FailureKind
from vllama_balancer.workers.poison import CRASHES_TO_TRIAL
from vllama_protos.errors import reason_text
from vllama_protos.v1.errors_pb2 import ErrorReason

if TYPE_CHECKING:
    from vllama_balancer.dispatch.placement_request import PlacementRequest
    from vllama_balancer.metrics import Metrics
    from vllama_balancer.workers.lease import Lease
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.worker import Worker

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Attempts without any progress between them: the first and two more."""
_NOT_COUNTED = (FailureKind.REFUSED, FailureKind.BUSY, FailureKind.UNREACHABLE, FailureKind.LOST)
"""The worker did not process the request, or crashed: crashes are counted by blame, see workers/poison.py."""

_CONTEXT_TOO_LONG = reason_text(ErrorReason.ERROR_REASON_CONTEXT_TOO_LONG)

_UNANSWERED = (FailureKind.DEADLINE, FailureKind.LOST, FailureKind.UNREACHABLE)
"""The worker may still be busy with the request."""

SATURATED_SECONDS = 0.25
"""How long a worker with a full queue gets no request if it does not say."""


class RetryPolicy:
    """Judges failed attempts."""

    def __init__(self, pool: Pool, metrics: Metrics) -> None:
        self._pool = pool
        self._metrics = metrics
        self._saturated: dict[str, asyncio.TimerHandle] = {}

    def close(self) -> None:
        """Cancels the timers of saturated workers."""
        for timer in self._saturated.values():
            timer.cancel()

    def penalise_worker(self, lease: Lease, failure: AttemptFailed) -> None:
        """Applies the consequences for the worker. Call before the lease is released."""
        worker = lease.worker
        self._metrics.attempt_failed(worker.name, failure.kind.value)
        if failure.kind not in _UNANSWERED:
            lease.record_answer()
        if lease.incarnation is not worker.incarnation:
            return
        if failure.kind in (FailureKind.LOST, FailureKind.UNREACHABLE):
            worker.mark_lost(str(failure))
        elif failure.kind in (FailureKind.REFUSED, FailureKind.LEFT):
            worker.mark_draining()
        elif failure.kind is FailureKind.BUSY:
            self._pause(worker, failure.error.retry_after_seconds or SATURATED_SECONDS)
        elif failure.kind is FailureKind.FAULT:
            worker.breaker.failure(str(failure), may_eject=not self._pool.is_last(worker))
            worker.update()

    def prepare_retry(self, request: PlacementRequest, lease: Lease, failure: AttemptFailed, failures: int) -> int:
        """Prepares the request for another attempt and returns the failures counted so far.

        Raises the client's error when there is nothing left to try.
        """
        if failure.kind is FailureKind.REJECTED and self._prefer_longer_context(request, lease, failure):
            return failures
        if failure.kind in (FailureKind.REJECTED, FailureKind.DEADLINE):
            raise failure.error
        request.is_retry = True
        request.needs_retry_budget = failure.kind is FailureKind.FAULT
        request.needs_liveness_check = failure.kind in (FailureKind.LOST, FailureKind.UNREACHABLE)
        if failure.kind is not FailureKind.BUSY:
            request.excluded.add(lease.incarnation.boot_id)
        if failure.kind is FailureKind.LOST and lease.is_blamed:
            self._count_crash(request, lease)
        if failure.kind in _NOT_COUNTED:
            return failures
        if failures + 1 >= MAX_ATTEMPTS:
            raise failure.error
        return failures + 1

    def _prefer_longer_context(self, request: PlacementRequest, lease: Lease, failure: AttemptFailed) -> bool:
        """Sends a prompt that is too long for its worker to those with longer contexts; False if there are none."""
        if failure.error.reason != _CONTEXT_TOO_LONG:
            return False
        too_short = self._pool.too_short_for(request.key, lease.worker.context_tokens + 1)
        if lease.incarnation.boot_id not in too_short:
            return False
        request.excluded |= too_short
        request.is_retry = True
        return True

    def _count_crash(self, request: PlacementRequest, lease: Lease) -> None:
        request.crash_count += 1
        if lease.is_trial:
            self._metrics.quarantined()
            killed = f"the request has killed {request.crash_count} workers, the last one alone"
            logger.error("request %s quarantined: it crashed %d workers", request.request_id, request.crash_count)
            raise Quarantined(f"{killed}, and is not tried again")
        if request.crash_count == CRASHES_TO_TRIAL:
            request.blamed_at = self._pool.now()
            logger.warning("request %s is tried alone next: it may have crashed workers", request.request_id)

    def _pause(self, worker: Worker, seconds: float) -> None:
        worker.mark_saturated(True)
        if (timer := self._saturated.pop(worker.name, None)) is not None:
            timer.cancel()
        self._saturated[worker.name] = asyncio.get_running_loop().call_later(seconds, self._resume, worker)

    def _resume(self, worker: Worker) -> None:
        self._saturated.pop(worker.name, None)
        worker.mark_saturated(False)
