"""Merges several generations into one stream of events, each with the index of its generation; and runs calls in order.

The first generation goes ahead: the others begin with its first event, when a worker has accepted the request and has
its prompt in the cache. What is refused is refused once.

Each generation has a reader task that waits until its event has been consumed: a slow consumer slows all of them
instead of filling a queue. The first error ends the merged stream; closing it ends every generation.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence

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


async def in_order(calls: Iterable[Coroutine[Any, Any, T]], at_once: int) -> AsyncGenerator[T, None]:
    """Yields the results of calls in their order while at most `at_once` of them run or wait to be read.

    Raises the first error in that order. Closing it cancels the calls that run.
    """
    running: deque[asyncio.Task[T]] = deque()
    try:
        for call in calls:
            running.append(asyncio.create_task(call))
            if len(running) == at_once:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _read(index: int, stream: AsyncGenerator[T, None], arrivals: asyncio.Queue[_Item[T]]) -> None:
    try:
        async with aclosing(stream):
            async for item in stream:
                await arrivals.put((index, item))
    except Exception as error:  # passed to the consumer, which raises it
        await arrivals.put(error)
    else:
        await arrivals.put(None)
