"""Decides when a model deserves one more worker: all that it has are full, and stay so for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.loading.progress_watch import WatchedPool
    from vllama_balancer.loading.resident import Resident


class Growth:
    """Watches how full models are; ask it regularly."""

    def __init__(self, pool: WatchedPool, after_seconds: float, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._after_seconds = after_seconds
        self._clock = clock

    def is_due(self, resident: Resident) -> bool:
        """Tells whether the model has been full for long enough."""
        if not resident.is_loaded or resident.is_leaving or not self._is_full(resident):
            resident.full_since = None
            return False
        if resident.full_since is None:
            resident.full_since = self._clock()
        return self._clock() - resident.full_since >= self._after_seconds

    def _is_full(self, resident: Resident) -> bool:
        """Tells whether all its workers serve and none has room; one that starts is room to come."""
        workers = [self._pool.find(f"worker-{slot.index}") for slot in resident.slots]
        return all(worker is not None and not worker.unavailable and worker.candidate() is None for worker in workers)
