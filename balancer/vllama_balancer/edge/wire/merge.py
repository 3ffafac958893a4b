"""Merges several generations into one stream of events, each with the index of its generation.

The first generation goes ahead: the others begin with its first event, when a worker has accepted the request and has
its prompt in the cache. What is refused is refused once.

Each generation has a reader task that waits until its event has been consumed: a slow consumer slows all of them
instead of filling a queue. The first error ends the merged stream; closing it ends every generation.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

T = TypeVar("T")

_Item = tuple[int, T] | BaseException | None


async def merge(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Yields the items of all streams as they come, those of one stream in its own order.

    Raises the first error of any stream. Streams are closed before this one ends.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    arrivals: asyncio.Queue[_Item[T]] = asyncio.Queue(maxsize=1)
    readers = [asyncio.create_task(_read(0, streams[0], arrivals))]
    try:
        running = len(streams)
        while running:
            arrival = await arrivals.get()
            if isinstance(arrival, BaseException):
                raise arrival
            if len(readers) < len(streams):
                following = enumerate(streams[1:], start=1)
                readers += [asyncio.create_task(_read(index, stream, arrivals)) for index, stream in following]
            if arrival is None:
                running -= 1
            else:
                yield arrival
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read(index: int, stream: AsyncGenerator[T, None], arrivals: asyncio.Queue[_Item[T]]) -> None:
    try:
        async with aclosing(stream):
            async for item in stream:
                await arrivals.put((index, item))
    except Exception as error:  # passed to the consumer, which raises it
        await arrivals.put(error)
    else:
        await arrivals.put(None)
