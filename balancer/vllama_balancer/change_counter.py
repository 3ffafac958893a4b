"""A counter of changes that tasks can wait on without missing one."""

from __future__ import annotations

import asyncio


class ChangeCounter:
    """A version that only grows; a reader waits until it exceeds the one that it has seen."""

    def __init__(self) -> None:
        self.version = 0
        """Number of changes so far."""
        self._next = asyncio.Event()

    def increment(self) -> None:
        """Counts a change and wakes every waiting task."""
        self.version += 1
        self._next.set()
        self._next = asyncio.Event()

    async def after(self, version: int) -> int:
        """Waits until the version exceeds the given one, and returns it."""
        while self.version <= version:
            await self._next.wait()
        return self.version
