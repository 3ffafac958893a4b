"""Notices that an engine has died or makes no more steps.

vLLM notices a dead process by itself within a second, but a hung one never on a single GPU: so
steps are watched from outside, by the statistics that each of them leaves.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_SECONDS = 0.25


class _Meter(Protocol):
    @property
    def last_step(self) -> float | None: ...


class Watched(Protocol):
    """What the watchdog looks at."""

    @property
    def is_dead(self) -> bool:
        """Whether a process of the engine has ended."""
        ...

    @property
    def unfinished_requests(self) -> int:
        """Requests that wait for a step."""
        ...

    @property
    def meter(self) -> _Meter:
        """Knows when the last step was."""
        ...


class Watchdog:
    """Watches one engine."""

    def __init__(self, engine: Watched, stall_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._stall_seconds = stall_seconds
        self._clock = clock
        self._busy_since: float | None = None

    async def wait(self) -> str:
        """Returns, as a sentence, why the engine can serve no more; never if it stays well."""
        while True:
            reason = self.look()
            if reason:
                return reason
            await asyncio.sleep(POLL_SECONDS)

    def look(self) -> str:
        """Looks once; empty when all is well."""
        if self._engine.is_dead:
            return "A process of the engine has died."
        if not self._engine.unfinished_requests:
            self._busy_since = None
            return ""
        now = self._clock()
        if self._busy_since is None:
            self._busy_since = now
        silent = now - max(self._busy_since, self._engine.meter.last_step or 0.0)
        if 0 < self._stall_seconds < silent:
            return f"The engine has made no step for {silent:.0f} seconds although requests are running."
        return ""
