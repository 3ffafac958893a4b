"""Events of many generations become one message; a generation that is ahead of the reader waits."""

import asyncio

from vllama_protos.v1 import generation_pb2
from vllama_server.engine.events import delta
from vllama_server.relay import send_buffer
from vllama_server.relay.send_buffer import SendBuffer


async def test_pending_events_of_all_generations_are_one_message():
    """First come, first served; each keeps its own order, and a status is its last event."""
    buffer = SendBuffer()
    buffer.put(2, generation_pb2.GenerateResponse(started=generation_pb2.Started(worker="w")))
    await buffer.put_delta(1, delta("a", [1]))
    await buffer.put_delta(2, delta("b", [2]))
    buffer.put(2, generation_pb2.GenerateResponse(finished=generation_pb2.Finished()))
    buffer.put(1, b"status")
    message = await buffer.take()
    kinds = [(each.stream, each.response.WhichOneof("event") or each.status) for each in message.events]
    assert kinds == [(2, "started"), (2, "delta"), (2, "finished"), (1, "delta"), (1, b"status")]
    assert message.events[1].response.delta == generation_pb2.Delta(text="b", token_ids=[2])


async def test_a_second_delta_waits_until_the_first_is_taken():
    """Other generations do not wait."""
    buffer = SendBuffer()
    await buffer.put_delta(1, delta("a"))
    second = asyncio.create_task(buffer.put_delta(1, delta("b")))
    third = asyncio.create_task(buffer.put_delta(2, delta("c")))
    await asyncio.wait({third})
    assert not second.done()
    first = await buffer.take()
    await asyncio.wait({second})
    following = await buffer.take()
    assert [each.response.delta.text for each in (*first.events, *following.events)] == ["a", "c", "b"]


async def test_discarded_events_are_not_taken():
    """A cancelled generation leaves nothing behind."""
    buffer = SendBuffer()
    await buffer.put_delta(1, delta("a"))
    await buffer.put_delta(2, delta("b"))
    buffer.discard(1)
    assert [each.stream for each in (await buffer.take()).events] == [2]


async def test_a_large_message_leaves_the_rest_for_the_next():
    """No message comes near gRPC's limit."""
    buffer = SendBuffer()
    for stream in range(3):
        await buffer.put_delta(stream, delta("x" * send_buffer.LARGE_BYTES))
    sizes = [len((await buffer.take()).events) for _ in range(3)]
    assert sizes == [1, 1, 1]


async def test_the_reader_waits_for_events_and_ends_once_all_are_taken():
    """Closing loses nothing."""
    buffer = SendBuffer()
    taking = asyncio.create_task(buffer.take())
    await asyncio.sleep(0)
    await buffer.put_delta(1, delta("a"))
    assert (await taking).events
    await buffer.put_delta(1, delta("b"))
    buffer.close()
    assert (await buffer.take()).events
    assert await buffer.take() is None
