"""Events read ahead of a slow reader: nothing is lost, doubled or out of order, and the work ends by itself."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from tests.server.vllm_adapter.driving import collect
from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.engine import events
from vllama_server.errors import EngineFault
from vllama_server.vllm_adapter.read_ahead import read_ahead

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.timeout(30)


class Source:
    """A generation of so many tokens; `error` ends it in place of `finished`."""

    def __init__(self, tokens: int, error: Exception | None = None) -> None:
        self.tokens = tokens
        self.error = error
        self.made = 0
        self.is_closed = False

    async def events(self) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Makes one token at a time."""
        try:
            yield pb.GenerateResponse(started=pb.Started(prompt_tokens=1))
            for number in range(self.tokens):
                await asyncio.sleep(0)
                self.made += 1
                entry = pb.TokenLogprobs(token=pb.TokenLogprob(id=number))
                call = pb.ToolCall(name=f"f{number}")
                yield events.delta(f"{number} ", [number], thinking="t", tool_calls=[call], logprobs=[entry])
            if self.error is not None:
                raise self.error
            yield pb.GenerateResponse(finished=pb.Finished(reason=pb.FINISH_REASON_STOP))
        finally:
            self.is_closed = True


async def until_closed(source: Source) -> None:
    """Waits for the end of the source without reading from it."""
    while not source.is_closed:
        await asyncio.sleep(0)


@pytest.mark.parametrize("is_slow", [True, False])
async def test_a_blocked_reader_keeps_nothing_from_ending(is_slow: bool) -> None:
    """What waited comes as one delta: text, reasoning, tokens, calls and log probabilities, all of them once."""
    source = Source(50)
    async with aclosing(read_ahead(source.events())) as ahead:
        first = await anext(ahead)
        assert first.HasField("started")
        if is_slow:
            await until_closed(source)
        rest = [event async for event in ahead]
    deltas = [event.delta for event in rest if event.HasField("delta")]
    assert (len(deltas) == 1) is is_slow
    assert rest[-1].HasField("finished")
    assert "".join(delta.text for delta in deltas) == "".join(f"{number} " for number in range(50))
    assert "".join(delta.thinking for delta in deltas) == "t" * 50
    assert [token_id for delta in deltas for token_id in delta.token_ids] == list(range(50))
    assert [entry.token.id for delta in deltas for entry in delta.logprobs] == list(range(50))
    assert [call.name for delta in deltas for call in delta.tool_calls] == [f"f{number}" for number in range(50)]


async def test_an_error_comes_after_what_was_made_before_it() -> None:
    """As without the reading ahead."""
    text = ""
    with pytest.raises(EngineFault, match="broken"):
        async for event in read_ahead(Source(5, EngineFault("broken")).events()):
            text += event.delta.text
    assert text == "0 1 2 3 4 "


async def test_closing_it_closes_the_generation() -> None:
    """At once, whatever has been read."""
    source = Source(10**9)
    async with aclosing(read_ahead(source.events())) as ahead:
        await anext(ahead)
        while source.made < 10:
            await asyncio.sleep(0)
    assert source.is_closed


async def test_a_whole_generation_keeps_its_order() -> None:
    """Started, deltas, finished."""
    outcome = await collect(read_ahead(Source(3).events()))
    assert outcome.text == "0 1 2 "
