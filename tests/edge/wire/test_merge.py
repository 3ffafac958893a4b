"""Several streams read as one."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.edge.wire.merge import merge

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Source:
    """A stream of numbers that can wait or fail, and that records its closing."""

    def __init__(self, count: int, *, then: Exception | asyncio.Event | None = None) -> None:
        self._count = count
        self._then = then
        self.given = 0
        self.closed = False

    async def stream(self) -> AsyncGenerator[int, None]:
        """Yields, then waits or fails."""
        try:
            for number in range(self._count):
                self.given += 1
                yield number
            if isinstance(self._then, Exception):
                raise self._then
            if self._then is not None:
                await self._then.wait()
        finally:
            self.closed = True


@pytest.mark.parametrize("streams", [1, 3])
async def test_every_item_comes_once_and_in_its_streams_order(streams: int) -> None:
    """Nothing is lost, repeated or reordered within a stream."""
    sources = [Source(20) for _ in range(streams)]
    items = [item async for item in merge([source.stream() for source in sources])]
    for index in range(streams):
        assert [number for stream, number in items if stream == index] == list(range(20))
    assert all(source.closed for source in sources)


@pytest.mark.parametrize("others", [0, 2])
async def test_the_first_failure_ends_all(others: int) -> None:
    """An error comes through, and the streams that still ran are closed by then."""
    waiting = [Source(1, then=asyncio.Event()) for _ in range(others)]
    failing = Source(1, then=ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        async for _ in merge([source.stream() for source in (*waiting, failing)]):
            pass
    assert all(source.closed for source in (*waiting, failing))


@pytest.mark.parametrize("streams", [1, 3])
async def test_closing_closes_every_stream(streams: int) -> None:
    """A reader that stops early leaves no stream open."""
    sources = [Source(1, then=asyncio.Event()) for _ in range(streams)]
    async with aclosing(merge([source.stream() for source in sources])) as items:
        for _ in range(streams):
            await anext(items)
    assert all(source.closed for source in sources)


async def test_a_slow_reader_slows_the_streams() -> None:
    """Unread items do not pile up: each stream is at most a few items ahead."""
    sources = [Source(1000), Source(1000)]
    async with aclosing(merge([source.stream() for source in sources])) as items:
        await anext(items)
        for _ in range(50):
            await asyncio.sleep(0)
        assert sum(source.given for source in sources) <= 6
