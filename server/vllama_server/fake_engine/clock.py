"""The clock of a simulated engine's steps; tests replace it."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Clock(Protocol):
    """Seconds that only grow."""

    def time(self) -> float:
        """The present."""
        ...

    async def sleep_until(self, time: float) -> None:
        """Waits until then; lets other tasks run even when that is past."""
        ...


class LoopClock:
    """The running event loop's own clock."""

    def time(self) -> float:
        """The loop's monotonic time."""
        return asyncio.get_running_loop().time()

    async def sleep_until(self, time: float) -> None:
        """Sleeps on the loop."""
        await asyncio.sleep(max(0.0, time - self.time()))
