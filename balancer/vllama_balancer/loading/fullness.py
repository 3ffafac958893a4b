"""Notes since when a model has had no room: requests wait although all its workers serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllama_balancer.loading.progress_watch import WatchedPool
    from vllama_balancer.loading.resident import Resident


def note_fullness(resident: Resident, pool: WatchedPool, now: float) -> None:
    """Looks at a model's workers; call it regularly."""
    if not resident.is_loaded or resident.is_leaving or not _is_full(resident, pool):
        resident.full_since = None
    elif resident.full_since is None:
        resident.full_since = now


def _is_full(resident: Resident, pool: WatchedPool) -> bool:
    """Tells whether all its workers serve and none has room; one that starts is room to come."""
    workers = [pool.find(name) for name in resident.workers]
    return all(worker is not None and not worker.unavailable and worker.candidate() is None for worker in workers)
