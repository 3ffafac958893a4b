"""What is yet to be sent of all generations on one call: news is put in as it comes and taken out as one message.

While a message is under way one chunk of each generation waits here. Whoever brings the next one
waits as well, and meanwhile the engine merges what it makes, as it does for any slow reader: what
is behind costs neither memory here nor time for each token.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama_protos.v1 import worker_pb2 as pb
from vllama_server.engine.events import Chunk
from vllama_server.wire.events import fill_delta

if TYPE_CHECKING:
    News = Chunk | pb.RelayEvent

LARGE_BYTES = 1 << 20
"""A message of this size takes no further generation in; far below what gRPC lets pass."""


class Outbox:
    """The news of one call; one reader takes it."""

    def __init__(self) -> None:
        self._news: dict[int, list[News]] = {}
        self._with_chunk: set[int] = set()
        self._has_news = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_closed = False

    def put(self, stream: int, event: pb.RelayEvent) -> None:
        """Adds an event that is no output; nothing overtakes anything."""
        self._news.setdefault(stream, []).append(event)
        self._has_news.set()

    async def put_chunk(self, stream: int, chunk: Chunk) -> None:
        """Adds output, once the output before it has been taken."""
        while stream in self._with_chunk:
            await self._has_room.wait()
        self._with_chunk.add(stream)
        self._news.setdefault(stream, []).append(chunk)
        self._has_news.set()

    def drop(self, stream: int) -> None:
        """Forgets what has not been taken of a generation."""
        self._news.pop(stream, None)
        self._with_chunk.discard(stream)

    def close(self) -> None:
        """Lets `take` come to its end once everything has been taken."""
        self._is_closed = True
        self._has_news.set()

    async def take(self) -> pb.RelayResponse | None:
        """Waits for news and takes all of it, or as much as makes a large message; None at the end."""
        while not self._news:
            if self._is_closed:
                return None
            self._has_news.clear()
            await self._has_news.wait()
        message, size = pb.RelayResponse(), 0
        while self._news and size < LARGE_BYTES:
            stream = next(iter(self._news))
            size += _add(message, stream, self._news.pop(stream))
            self._with_chunk.discard(stream)
        # Those that wait wake now; those that come later find room or wait for the next message.
        self._has_room.set()
        self._has_room.clear()
        return message


def _add(message: pb.RelayResponse, stream: int, waiting: list[News]) -> int:
    """Adds what waits of one generation and returns about how many bytes it has."""
    size = 0
    for news in waiting:
        if type(news) is Chunk:
            delta = message.events.add(stream=stream).response.delta
            fill_delta(delta, news)
            size += delta.ByteSize()
        else:
            assert isinstance(news, pb.RelayEvent)
            message.events.append(news)
            size += news.ByteSize()
    return size
