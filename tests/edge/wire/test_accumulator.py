"""Whole generations, gathered."""

from __future__ import annotations

import pytest

from vllama_balancer.edge.wire.accumulator import Accumulator, collect
from vllama_balancer.errors import EngineFault, WorkerLost
from vllama_balancer.fake_gateway import FakeGateway, delta, finished, started
from vllama_balancer.gateway import Call
from vllama_protos.v1 import generation_pb2


async def test_pieces_join_in_order() -> None:
    """Text, reasoning and calls are gathered each in its order."""
    gateway = FakeGateway()
    call = generation_pb2.ToolCall(name="f")
    gateway.play(started(), delta(thinking="a"), delta("b", thinking="c"), delta("d", tool_calls=[call]), finished())
    collected = await collect(gateway.generate(generation_pb2.GenerateRequest(), Call("me")))
    assert (collected.text, collected.thinking, collected.tool_calls) == ("bd", "ac", [call])
    assert collected.started.worker == "worker-0"


async def test_a_stream_without_an_end_is_a_fault() -> None:
    """A generation that just stops is not taken for a whole one."""
    gateway = FakeGateway()
    gateway.play(started(), delta("b"))
    with pytest.raises(EngineFault, match="without saying how it ended"):
        await collect(gateway.generate(generation_pb2.GenerateRequest(), Call("me")))


def test_an_aborted_generation_is_a_lost_worker() -> None:
    """A worker's giving up is an error."""
    event = finished(generation_pb2.FINISH_REASON_ABORTED)
    assert isinstance(event, generation_pb2.GenerateResponse)
    with pytest.raises(WorkerLost):
        Accumulator().add(event)
