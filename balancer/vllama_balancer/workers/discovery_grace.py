"""Who may still tell what it serves: a model that nobody is known to serve may be on its way.

A balancer of workers that it has not started learns of them after its start: addresses are connected to one by one, and
workers that had joined the balancer before it was started anew come back to it. Whoever asks meanwhile waits a moment,
for "not found" would be a guess.
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

INTRODUCTION_SECONDS = 10.0
"""How long a worker is given, from its appearance on, to tell what it serves."""
RETRY_AFTER_SECONDS = 2.0
"""When workers that are on their way are worth another try."""


class DiscoveryGrace:
    """Waits for workers that are not known yet."""

    def __init__(
        self,
        pool: Pool,
        *,
        joining_seconds: float = 0.0,
        only_from_elsewhere: bool = False,
        introduction_seconds: float = INTRODUCTION_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Expects workers to join for that long from now on.

        Where all workers are from elsewhere, nothing can be said of any model before one of them has told what it
        serves. `clock` must agree with the deadlines of calls (the event loop's).
        """
        self._pool = pool
        self._joining_until = clock() + joining_seconds
        self._only_from_elsewhere = only_from_elsewhere
        self._introduction_seconds = introduction_seconds
        self._clock = clock

    async def bring(
        self, name: str, find: Callable[[str], ModelEntry | None], deadline: float | None = None
    ) -> ModelEntry | None:
        """Finds a model, as soon as a worker has told that it serves it; None once nobody can be expected to.

        Raises NoWorker when the deadline passes before that, and while no worker at all is known.
        """
        key = model_key(name)
        while (entry := find(name)) is None and (seconds := self._seconds(key)) > 0:
            if deadline is not None and self._clock() >= deadline:
                raise _nobody_yet(name)
            await self._change(seconds if deadline is None else min(seconds, deadline - self._clock()))
        if entry is None and self._only_from_elsewhere and not any(w.description for w in self._pool.workers()):
            raise _nobody_yet(name)
        return entry

    def _seconds(self, key: str) -> float:
        """For how long a worker may still turn out to serve the model."""
        silent = [w for w in self._pool.workers() if w.description is None and (not w.keys or key in w.keys)]
        waits = [self._introduction_seconds - worker.age_seconds for worker in silent]
        return max([self._joining_until - self._clock(), *waits])

    async def _change(self, seconds: float) -> None:
        changes = self._pool.changes
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await changes.after(changes.version)
        except TimeoutError:
            return


def _nobody_yet(name: str) -> NoWorker:
    message = f"no worker has told yet whether it serves model {name!r}; try again later"
    return NoWorker(message, retry_after_seconds=RETRY_AFTER_SECONDS)
