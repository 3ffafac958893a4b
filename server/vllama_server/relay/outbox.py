"""What is yet to be sent of all generations on one call: news is put in as it comes and taken out as one message.

While a message is under way the news gathers here, and the chunks of one generation merge into one
delta when they are taken. A generation can leave no more here than its own output, which is what
an engine would keep for a slow reader as well.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama_protos.v1 import worker_pb2 as pb
from vllama_server.engine import Chunk
from vllama_server.wire.events import extend_delta

if TYPE_CHECKING:
    from vllama_protos.v1 import generation_pb2

    News = Chunk | pb.RelayEvent

LARGE_BYTES = 1 << 20
"""A message of this size takes no further generation in; far below what gRPC lets pass."""


class Outbox:
    """The news of one call; one reader takes it."""

    def __init__(self) -> None:
        self._news: dict[int, list[News]] = {}
        self._has_news = asyncio.Event()
        self._is_closed = False

    def put(self, stream: int, news: News) -> None:
        """Adds news of a generation."""
        waiting = self._news.get(stream)
        if waiting is None:
            self._news[stream] = [news]
            self._has_news.set()
        else:
            waiting.append(news)

    def drop(self, stream: int) -> None:
        """Forgets what has not been taken of a generation."""
        self._news.pop(stream, None)

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
        return message


def _add(message: pb.RelayResponse, stream: int, waiting: list[News]) -> int:
    """Adds what waits of one generation, chunks merged, and returns about how many bytes it has."""
    size = 0
    delta: generation_pb2.Delta | None = None
    for news in waiting:
        if type(news) is Chunk:
            if delta is None or not _may_join(delta, news):
                delta = message.events.add(stream=stream).response.delta
            extend_delta(delta, news)
        else:
            assert isinstance(news, pb.RelayEvent)
            message.events.append(news)
            size += news.ByteSize()
            delta = None
    return size if delta is None else size + delta.ByteSize()


def _may_join(delta: generation_pb2.Delta, chunk: Chunk) -> bool:
    """Tells whether the chunk says in this delta what it would say in one of its own.

    A reader takes a delta's reasoning before its text and its calls last: neither may move up.
    """
    return not (chunk.tool_calls or delta.tool_calls) and not (chunk.thinking and delta.text)
