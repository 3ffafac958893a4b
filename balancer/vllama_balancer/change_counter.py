"""Tells anybody who waits that something has changed, without ever losing a change."""

from __future__ import annotations

import asyncio


class ChangeCounter:
    """A version that only grows; readers wait until it is past the one they have seen."""

    def __init__(self) -> None:
        self.version = 0
        """Number of changes so far."""
        self._next = asyncio.Event()

    def increment(self) -> None:
        """Counts a change and wakes everybody who waits for one."""
        self.version += 1
        self._next.set()
        self._next = asyncio.Event()

    async def after(self, version: int) -> int:
        """Waits until the version is past the given one, and returns it."""
        while self.version <= version:
            await self._next.wait()
        return self.version
