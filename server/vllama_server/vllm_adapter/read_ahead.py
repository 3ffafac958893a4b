"""Reads the events of a generation ahead of its reader, as one that waits."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from vllama_protos.v1 import generation_pb2 as pb


async def read_ahead(
    events: AsyncGenerator[pb.GenerateResponse, None],
) -> AsyncGenerator[pb.GenerateResponse, None]:
    """Yields the same events; deltas that wait for the reader become one.

    Stop texts are found where events are made: without this the engine would compute past one while the reader is
    blocked. Closing it closes `events`.
    """
    pending: deque[pb.GenerateResponse] = deque()
    has_news = asyncio.Event()
    reading = asyncio.create_task(_read(events, pending, has_news))
    try:
        while pending or not reading.done():
            if pending:
                yield pending.popleft()
            else:
                has_news.clear()
                await has_news.wait()
        await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read(
    events: AsyncGenerator[pb.GenerateResponse, None], pending: deque[pb.GenerateResponse], has_news: asyncio.Event
) -> None:
    try:
        async with aclosing(events):
            async for event in events:
                if pending and pending[-1].HasField("delta") and event.HasField("delta"):
                    _append(pending[-1].delta, event.delta)
                else:
                    pending.append(event)
                has_news.set()
    finally:
        # After the last event, too: the task is done only a moment later.
        asyncio.get_running_loop().call_soon(has_news.set)


def _append(delta: pb.Delta, later: pb.Delta) -> None:
    text, thinking = delta.text + later.text, delta.thinking + later.thinking
    delta.MergeFrom(later)
    delta.text, delta.thinking = text, thinking
