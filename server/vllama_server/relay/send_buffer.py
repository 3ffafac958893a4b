"""What is yet to be sent of all generations on one call: event is put in as it comes and taken out as one message.

While a message is under way one chunk of each generation waits here. Whoever brings the next one
waits as well, and meanwhile the engine merges what it makes, as it does for any slow reader: what
is behind costs neither memory here nor time for each token.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama_protos.v1 import worker_pb2 as pb
from vllama_server.engine.events import Chunk
from vllama_server.wire.responses import fill_delta

if TYPE_CHECKING:
    Event = Chunk | pb.RelayEvent

LARGE_BYTES = 1 << 20
"""A message of this size takes no further generation in; far below what gRPC lets pass."""


class SendBuffer:
    """The event of one call; one reader takes it."""

    def __init__(self) -> None:
        self._pending: dict[int, list[Event]] = {}
        self._with_delta: set[int] = set()
        self._has_events = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_closed = False

    def put(self, stream: int, event: pb.RelayEvent) -> None:
        """Adds an event that is no output; nothing overtakes anything."""
        self._pending.setdefault(stream, []).append(event)
        self._has_events.set()

    async def put_delta(self, stream: int, chunk: Chunk) -> None:
        """Adds output, once the output before it has been taken."""
        while stream in self._with_delta:
            await self._has_room.wait()
        self._with_delta.add(stream)
        self._pending.setdefault(stream, []).append(chunk)
        self._has_events.set()

    def discard(self, stream: int) -> None:
        """Forgets what has not been taken of a generation."""
        self._pending.pop(stream, None)
        self._with_delta.discard(stream)

    def close(self) -> None:
        """Lets `take` come to its end once everything has been taken."""
        self._is_closed = True
        self._has_events.set()

    async def take(self) -> pb.RelayResponse | None:
        """Waits for event and takes all of it, or as much as makes a large message; None at the end."""
        while not self._pending:
            if self._is_closed:
                return None
            self._has_events.clear()
            await self._has_events.wait()
        message, size = pb.RelayResponse(), 0
        while self._pending and size < LARGE_BYTES:
            stream = next(iter(self._pending))
            size += _add(message, stream, self._pending.pop(stream))
            self._with_delta.discard(stream)
        # Those that wait wake now; those that come later find room or wait for the next message.
        self._has_room.set()
        self._has_room.clear()
        return message


def _add(message: pb.RelayResponse, stream: int, waiting: list[Event]) -> int:
    """Adds what waits of one generation and returns about how many bytes it has."""
    size = 0
    for event in waiting:
        if type(event) is Chunk:
            delta = message.events.add(stream=stream).response.delta
            fill_delta(delta, event)
            size += delta.ByteSize()
        else:
            assert isinstance(event, pb.RelayEvent)
            message.events.append(event)
            size += event.ByteSize()
    return size
