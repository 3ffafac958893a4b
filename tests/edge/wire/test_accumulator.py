"""Whole generations, accumulated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vllama_balancer.edge.wire.accumulator import Accumulator, collect, event_of
from vllama_balancer.errors import EngineFault, WorkerLost
from vllama_balancer.fake_gateway import FakeGateway, delta, finished, started
from vllama_balancer.gateway import Call
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vllama_balancer.edge.wire.accumulator import Event


async def events(gateway: FakeGateway) -> AsyncIterator[Event]:
    """The events of one generation."""
    async for response in gateway.generate(generation_pb2.GenerateRequest(), Call("me")):
        event = event_of(response)
        assert event is not None
        yield event


async def test_pieces_join_in_order() -> None:
    """Text, reasoning and calls keep their order."""
    gateway = FakeGateway()
    call = generation_pb2.ToolCall(name="f")
    gateway.play(started(), delta(thinking="a"), delta("b", thinking="c"), delta("d", tool_calls=[call]), finished())
    accumulator = await collect(events(gateway))
    assert (accumulator.text, accumulator.thinking, accumulator.tool_calls) == ("bd", "ac", [call])
    assert accumulator.started.worker == "worker-0"


async def test_a_stream_without_an_end_is_a_fault() -> None:
    """A generation that just stops is not taken for a whole one."""
    gateway = FakeGateway()
    gateway.play(started(), delta("b"))
    with pytest.raises(EngineFault, match="without saying how it ended"):
        await collect(events(gateway))


def test_an_aborted_generation_is_a_lost_worker() -> None:
    """An aborted generation is an error."""
    event = finished(generation_pb2.FINISH_REASON_ABORTED)
    assert isinstance(event, generation_pb2.GenerateResponse)
    with pytest.raises(WorkerLost):
        Accumulator().add(event.finished)
