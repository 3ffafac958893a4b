"""How many messages may be under way to a caller.

A connection would take megabytes before it held anybody up, and what is in it cannot merge any
more: a caller that is behind would get each token by itself, later and later.
"""

from __future__ import annotations

import asyncio


class Credit:
    """Counts messages that may be sent."""

    def __init__(self, messages: int) -> None:
        self._messages = messages
        self._has_some = asyncio.Event()
        self._is_lifted = False

    def add(self) -> None:
        """Allows one more."""
        self._messages += 1
        self._has_some.set()

    def lift(self) -> None:
        """Allows all from now on: nobody is left who would ask."""
        self._is_lifted = True
        self._has_some.set()

    async def spend(self) -> None:
        """Waits until a message may be sent, and counts it."""
        while not self._messages and not self._is_lifted:
            self._has_some.clear()
            await self._has_some.wait()
        self._messages -= 1
