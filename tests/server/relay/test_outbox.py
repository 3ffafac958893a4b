"""News of many generations becomes one message, and what merges says the same as before."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from vllama_protos.v1 import generation_pb2, worker_pb2
from vllama_server.engine import Chunk, PositionLogprobs, TokenLogprob, ToolCall
from vllama_server.relay import outbox as module
from vllama_server.relay.outbox import Outbox

CHUNKS = st.builds(
    Chunk,
    text=st.text(max_size=3),
    thinking=st.text(max_size=3),
    tool_calls=st.sampled_from([(), (), (ToolCall("1", "f", "{}"),)]),
    token_ids=st.lists(st.integers(0, 1 << 31), max_size=3),
)


def finished(stream: int) -> worker_pb2.RelayEvent:
    """Makes a last event."""
    end = generation_pb2.GenerateResponse(finished=generation_pb2.Finished(matched_stop="end"))
    return worker_pb2.RelayEvent(stream=stream, response=end)


def told(deltas) -> list[tuple[str, str]]:
    """What a reader hears of deltas, in order: reasoning before text, calls last."""
    heard = []
    for delta in deltas:
        heard += [("thinking", character) for character in delta.thinking]
        heard += [("text", character) for character in delta.text]
        heard += [("call", call.name) for call in delta.tool_calls]
    return heard


async def test_news_of_all_generations_is_one_message():
    """One event for each generation, first come first."""
    outbox = Outbox()
    outbox.put(2, Chunk("b", token_ids=[2]))
    outbox.put(1, Chunk("a", token_ids=[1]))
    outbox.put(2, Chunk("c", token_ids=[3]))
    message = await outbox.take()
    assert [(event.stream, event.response.delta.text) for event in message.events] == [(2, "bc"), (1, "a")]
    assert list(message.events[0].response.delta.token_ids) == [2, 3]


async def test_log_probabilities_stay_with_their_tokens():
    """They are put one after the other as the tokens are."""
    outbox = Outbox()
    for number in (1, 2):
        entry = PositionLogprobs(TokenLogprob(number, "x", b"x", -0.5))
        outbox.put(1, Chunk("x", token_ids=[number], logprobs=[entry]))
    [event] = (await outbox.take()).events
    assert [entry.token.id for entry in event.response.delta.logprobs] == [1, 2]


async def test_the_end_follows_the_last_chunk():
    """Nothing overtakes anything."""
    outbox = Outbox()
    outbox.put(1, Chunk("a"))
    outbox.put(1, Chunk("b"))
    outbox.put(1, finished(1))
    delta, end = (await outbox.take()).events
    assert (delta.response.delta.text, end.response.finished.matched_stop) == ("ab", "end")


@given(st.lists(CHUNKS, min_size=1, max_size=8))
async def test_merged_chunks_say_what_they_said_one_by_one(chunks):
    """Order, text, tokens and calls are what they were, whatever merges."""
    outbox = Outbox()
    for chunk in chunks:
        outbox.put(1, chunk)
    deltas = [event.response.delta for event in (await outbox.take()).events]
    assert told(deltas) == told(chunks)
    assert [id_ for delta in deltas for id_ in delta.token_ids] == [id_ for chunk in chunks for id_ in chunk.token_ids]


async def test_what_was_dropped_is_not_taken():
    """A cancelled generation leaves nothing behind."""
    outbox = Outbox()
    outbox.put(1, Chunk("a"))
    outbox.put(2, Chunk("b"))
    outbox.drop(1)
    assert [event.stream for event in (await outbox.take()).events] == [2]


async def test_a_large_message_leaves_the_rest_for_the_next():
    """No message comes near what gRPC lets pass."""
    outbox = Outbox()
    for stream in range(3):
        outbox.put(stream, Chunk("x" * module.LARGE_BYTES))
    sizes = [len((await outbox.take()).events) for _ in range(3)]
    assert sizes == [1, 1, 1]


async def test_the_reader_waits_for_news_and_ends_once_all_is_taken():
    """Closing loses nothing."""
    outbox = Outbox()
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    outbox.put(1, Chunk("a"))
    assert (await taking).events
    outbox.put(1, Chunk("b"))
    outbox.close()
    assert (await outbox.take()).events
    assert await outbox.take() is None
