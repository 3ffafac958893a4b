"""Delays "model not found" while newly discovered workers may still announce the model.

A balancer of remote workers learns about them after its start: it connects to addresses one by one, and workers that
had joined before a restart of the balancer join again. A request in these first moments waits, because "not found"
would be a guess.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from vllama_balancer.errors import NoWorker
from vllama_balancer.names import model_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.gateway import ModelEntry
    from vllama_balancer.workers.pool import Pool

ANNOUNCE_SECONDS = 10.0
"""How long after its discovery a worker may still announce its models."""
RETRY_AFTER_SECONDS = 2.0
"""Retry-After while workers are expected to announce themselves."""


class DiscoveryGrace:
    """Waits for workers that have not announced their models yet."""

    def __init__(
        self,
        pool: Pool,
        *,
        rejoin_seconds: float = 0.0,
        only_remote_workers: bool = False,
        announce_seconds: float = ANNOUNCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """For `rejoin_seconds` from now, workers may still join.

        With `only_remote_workers`, no model is "not found" before any worker has announced its models. `clock` must
        agree with the deadlines of calls (the event loop's).
        """
        self._pool = pool
        self._rejoining_until = clock() + rejoin_seconds
        self._only_remote_workers = only_remote_workers
        self._announce_seconds = announce_seconds
        self._clock = clock

    async def find(
        self, name: str, find: Callable[[str], ModelEntry | None], deadline: float | None = None
    ) -> ModelEntry | None:
        """Returns a model as soon as a worker announces it; None once no worker can be expected to.

        Raises NoWorker when the deadline passes before that, and while no worker at all is known.
        """
        key = model_key(name)
        while (entry := find(name)) is None and (seconds := self._remaining_seconds(key)) > 0:
            if deadline is not None and self._clock() >= deadline:
                raise _not_announced(name)
            await self._wait_for_change(seconds if deadline is None else min(seconds, deadline - self._clock()))
        if entry is None and self._only_remote_workers and not any(w.description for w in self._pool.workers()):
            raise _not_announced(name)
        return entry

    def _remaining_seconds(self, key: str) -> float:
        """Returns for how long a worker may still announce the model."""
        silent = [w for w in self._pool.workers() if w.description is None and (not w.keys or key in w.keys)]
        waits = [self._announce_seconds - worker.age_seconds for worker in silent]
        return max([self._rejoining_until - self._clock(), *waits])

    async def _wait_for_change(self, seconds: float) -> None:
        changes = self._pool.changes
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await changes.after(changes.version)
        except TimeoutError:
            return


def _not_announced(name: str) -> NoWorker:
    message = f"no worker has told yet whether it serves model {name!r}; try again later"
    return NoWorker(message, retry_after_seconds=RETRY_AFTER_SECONDS)
