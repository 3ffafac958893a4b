"""Credit-based flow control: HTTP/2 windows are megabytes, and deltas already sent cannot be merged.

So a caller asks for messages. An answer to each message would cost both sides as much as a small message does. Small
messages are therefore counted by their bytes, and only every few of them has to be answered.
"""

from __future__ import annotations

import asyncio

UNANSWERED_BYTES = 2048
"""So many bytes need one answer: tokens of fifty streams once, or of six streams ten times."""


class FlowControl:
    """Counts messages that may be sent."""

    def __init__(self, messages: int, unanswered_bytes: int = UNANSWERED_BYTES) -> None:
        self._messages = messages
        self._unanswered_bytes = unanswered_bytes
        self._sent_bytes = 0
        self._is_available = asyncio.Event()
        self._is_unlimited = False

    def grant(self) -> None:
        """Allows one more."""
        self._messages += 1
        self._is_available.set()

    def lift_limit(self) -> None:
        """Allows all from now on: the caller sends no more requests."""
        self._is_unlimited = True
        self._is_available.set()

    async def available(self) -> None:
        """Waits until a message may be sent."""
        while not self._messages and not self._is_unlimited:
            self._is_available.clear()
            await self._is_available.wait()

    def consume(self, size_bytes: int) -> bool:
        """Counts a message; returns whether the caller has to answer it."""
        self._sent_bytes += size_bytes
        if self._sent_bytes < self._unanswered_bytes:
            return False
        self._sent_bytes = 0
        self._messages -= 1
        return True
