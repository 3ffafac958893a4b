"""News of many generations becomes one message; who is ahead of the reader waits."""

import asyncio

from vllama_protos.v1 import generation_pb2, worker_pb2
from vllama_server.engine.events import Chunk
from vllama_server.relay import send_buffer as send_buffer
from vllama_server.relay.send_buffer import SendBuffer


def event(stream: int, **fields: object) -> worker_pb2.RelayEvent:
    """Makes an event that is no output."""
    return worker_pb2.RelayEvent(stream=stream, response=generation_pb2.GenerateResponse(**fields))


async def test_news_of_all_generations_is_one_message():
    """First come, first served; each keeps its own order."""
    buffer = SendBuffer()
    buffer.put(2, event(2, started=generation_pb2.Started(worker="w")))
    await buffer.put_delta(1, Chunk("a", token_ids=[1]))
    await buffer.put_delta(2, Chunk("b", token_ids=[2]))
    buffer.put(2, event(2, finished=generation_pb2.Finished()))
    message = await buffer.take()
    told = [(each.stream, each.response.WhichOneof("event")) for each in message.events]
    assert told == [(2, "started"), (2, "delta"), (2, "finished"), (1, "delta")]
    assert message.events[1].response.delta == generation_pb2.Delta(text="b", token_ids=[2])


async def test_a_second_chunk_waits_until_the_first_is_taken():
    """And holds up nobody else."""
    buffer = SendBuffer()
    await buffer.put_delta(1, Chunk("a"))
    second = asyncio.create_task(buffer.put_delta(1, Chunk("b")))
    third = asyncio.create_task(buffer.put_delta(2, Chunk("c")))
    await asyncio.wait({third})
    assert not second.done()
    first = await buffer.take()
    await asyncio.wait({second})
    following = await buffer.take()
    assert [each.response.delta.text for each in (*first.events, *following.events)] == ["a", "c", "b"]


async def test_what_was_dropped_is_not_taken():
    """A cancelled generation leaves nothing behind."""
    buffer = SendBuffer()
    await buffer.put_delta(1, Chunk("a"))
    await buffer.put_delta(2, Chunk("b"))
    buffer.discard(1)
    assert [each.stream for each in (await buffer.take()).events] == [2]


async def test_a_large_message_leaves_the_rest_for_the_next():
    """No message comes near what gRPC lets pass."""
    buffer = SendBuffer()
    for stream in range(3):
        await buffer.put_delta(stream, Chunk("x" * send_buffer.LARGE_BYTES))
    sizes = [len((await buffer.take()).events) for _ in range(3)]
    assert sizes == [1, 1, 1]


async def test_the_reader_waits_for_news_and_ends_once_all_is_taken():
    """Closing loses nothing."""
    buffer = SendBuffer()
    taking = asyncio.create_task(buffer.take())
    await asyncio.sleep(0)
    await buffer.put_delta(1, Chunk("a"))
    assert (await taking).events
    await buffer.put_delta(1, Chunk("b"))
    buffer.close()
    assert (await buffer.take()).events
    assert await buffer.take() is None
