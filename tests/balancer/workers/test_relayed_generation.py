"""A generation of a shared call behaves like a call of its own, and merges what a slow reader has not read."""

import asyncio

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_balancer.workers.relay import RelayedGeneration
from vllama_protos.v1 import generation_pb2 as pb

DELTAS = st.builds(
    pb.Delta,
    text=st.text(max_size=3),
    thinking=st.text(max_size=3),
    tool_calls=st.sampled_from([[], [], [pb.ToolCall(id="1", name="f")]]),
    token_ids=st.lists(st.integers(0, 1 << 31), max_size=3),
)
LOST = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, details="lost")


def delta(text: str = "", **fields: object) -> pb.GenerateResponse:
    """Makes output."""
    return pb.GenerateResponse(delta=pb.Delta(text=text, **fields))


def finished() -> pb.GenerateResponse:
    """Makes a last event."""
    return pb.GenerateResponse(finished=pb.Finished(matched_stop="end"))


def generation(timeout_seconds: float | None = None) -> tuple[RelayedGeneration, list[bool]]:
    """Makes one, and the list that fills when it is ended from this side."""
    cancelled: list[bool] = []
    return RelayedGeneration(lambda: cancelled.append(True), timeout_seconds), cancelled


def content(deltas: list[pb.Delta]) -> list[tuple[str, str]]:
    """What a reader gets from deltas, in order: reasoning before text, calls last."""
    parts = []
    for each in deltas:
        parts += [("thinking", character) for character in each.thinking]
        parts += [("text", character) for character in each.text]
        parts += [("call", call.name) for call in each.tool_calls]
    return parts


async def test_a_reader_that_keeps_up_gets_every_event_as_it_came():
    """Nothing is held back."""
    stream, _ = generation()
    for text in "abc":
        stream.add(delta(text))
        kind, response = await anext(stream)
        assert (kind, response.delta.text) == ("delta", text)
    stream.add(finished())
    kind, response = await anext(stream)
    assert (kind, response.finished.matched_stop) == ("finished", "end")
    assert [event async for event in stream] == []


async def test_a_slow_reader_gets_fewer_and_larger_deltas():
    """`started` and `finished` stay events of their own."""
    stream, _ = generation()
    stream.add(pb.GenerateResponse(started=pb.Started(worker="w")))
    for number in range(5):
        entry = pb.TokenLogprobs(token=pb.TokenLogprob(id=number))
        stream.add(delta(str(number), token_ids=[number], logprobs=[entry]))
    stream.add(finished())
    events = [event async for event in stream]
    assert [kind for kind, _ in events] == ["started", "delta", "finished"]
    merged = events[1][1]
    assert (merged.delta.text, list(merged.delta.token_ids)) == ("01234", [0, 1, 2, 3, 4])
    assert [entry.token.id for entry in merged.delta.logprobs] == [0, 1, 2, 3, 4]


@given(st.lists(DELTAS, min_size=1, max_size=8))
async def test_merged_deltas_keep_their_content(deltas):
    """Order, text, tokens and calls are what they were, whatever merges."""
    stream, _ = generation()
    before = [pb.Delta.FromString(each.SerializeToString()) for each in deltas]
    for each in deltas:
        stream.add(pb.GenerateResponse(delta=each))
    stream.add(finished())
    merged = [response.delta async for kind, response in stream if kind == "delta"]
    assert content(merged) == content(before)
    assert [id_ for each in merged for id_ in each.token_ids] == [id_ for each in before for id_ in each.token_ids]


async def test_an_error_comes_after_what_came_before_it():
    """Delivered output need not be computed again."""
    stream, cancelled = generation()
    stream.add(delta("a"))
    stream.fail(LOST)
    assert (await anext(stream))[1].delta.text == "a"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(stream)
    assert caught.value is LOST
    assert not stream.cancel()
    assert not cancelled


async def test_cancelling_ends_it_at_once_and_drops_what_came():
    """A late token of an abandoned attempt must not get through."""
    stream, cancelled = generation()
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    assert stream.cancel()
    stream.add(delta("late"))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await anext(stream)
    assert not stream.cancel()
    assert cancelled == [True]


async def test_cancelling_a_complete_one_sends_nothing():
    """There is nothing left to end."""
    stream, cancelled = generation()
    stream.add(finished())
    assert not stream.cancel()
    assert not cancelled


async def test_a_deadline_ends_it_on_both_sides():
    """The worker is notified as well."""
    stream, cancelled = generation(0.001)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(stream)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert cancelled == [True]
