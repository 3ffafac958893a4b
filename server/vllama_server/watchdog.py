"""The watchdog: detects an engine that hangs, which means that it has work and makes no step.

A dead engine reports its end; a hung one does not, and vLLM has no time limit for a step on one GPU. The time without a
step counts only while there is work, since an idle engine makes none, and only while the watchdog itself runs.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from vllama_server.errors import EngineDead

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllama_server.engine.protocol import EngineLoad

MOST_POLL_SECONDS = 1.0
LOOKS = 2
"""Looks in a row that find the limit exceeded before the engine counts as hung: time for a step after a freeze."""


class Watchdog:
    """Reads the load of an engine several times within the limit."""

    def __init__(
        self,
        measure: Callable[[], EngineLoad],
        stall_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._measure = measure
        self._stall_seconds = stall_seconds
        self._clock = clock
        self._sleep = sleep
        self._poll_seconds = min(MOST_POLL_SECONDS, stall_seconds / 4)
        self._looked_at = clock()
        self._silent_seconds = 0.0

    async def stalled(self) -> EngineDead:
        """Returns once the engine has stalled; never when the limit is 0."""
        if not self._stall_seconds:
            await asyncio.Event().wait()
        looks = 0
        while looks < LOOKS:
            await self._sleep(self._poll_seconds)
            looks = looks + 1 if self._look() >= self._stall_seconds else 0
        return EngineDead(
            f"the engine has made no step for {self._silent_seconds:.1f} s although it has work; "
            "it hangs and this worker ends (--stall-seconds sets the limit)."
        )

    def _look(self) -> float:
        """Returns the watched time without a step while there was work."""
        load, now = self._measure(), self._clock()
        elapsed, self._looked_at = now - self._looked_at, now
        # A look that comes late was held up together with the engine: by SIGSTOP, a paused container, a moved machine.
        watched = elapsed if elapsed <= 2 * self._poll_seconds else self._poll_seconds
        silent = self._silent_seconds + watched if load.running or load.waiting else 0.0
        age = load.last_step_age_seconds
        self._silent_seconds = silent if age is None else min(silent, age)
        return self._silent_seconds
