"""The watchdog: detects an engine that hangs, which means that it has work and makes no step.

A dead engine reports its end; a hung one does not, and vLLM has no time limit for a step on one GPU. The time without a
step counts only while there is work, since an idle engine makes none.
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
        self._busy_since: float | None = None

    async def stalled(self) -> EngineDead:
        """Returns once the engine has stalled; never when the limit is 0."""
        if not self._stall_seconds:
            await asyncio.Event().wait()
        poll_seconds = min(MOST_POLL_SECONDS, self._stall_seconds / 4)
        while (silent := self._silent_seconds()) < self._stall_seconds:
            await self._sleep(poll_seconds)
        return EngineDead(
            f"the engine has made no step for {silent:.1f} s although it has work; "
            "it hangs and this worker ends (--stall-seconds sets the limit)."
        )

    def _silent_seconds(self) -> float:
        load, now = self._measure(), self._clock()
        if not load.running and not load.waiting:
            self._busy_since = None
            return 0.0
        if self._busy_since is None:
            self._busy_since = now
        busy = now - self._busy_since
        return busy if load.last_step_age_seconds is None else min(busy, load.last_step_age_seconds)
