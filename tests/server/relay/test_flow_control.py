"""Flow control: large messages are counted one by one, small ones by their bytes."""

import asyncio

from vllama_server.relay.flow_control import FlowControl


async def is_open(flow_control: FlowControl) -> bool:
    """Returns whether a message may be sent now."""
    waiting = asyncio.create_task(flow_control.available())
    await asyncio.sleep(0)
    is_done = waiting.done()
    waiting.cancel()
    await asyncio.wait({waiting})
    return is_done


async def test_large_messages_are_answered_one_by_one():
    """Two may be unanswered; the third waits."""
    flow_control = FlowControl(2, unanswered_bytes=100)
    assert flow_control.consume(100)
    assert await is_open(flow_control)
    assert flow_control.consume(5000)
    assert not await is_open(flow_control)
    flow_control.grant()
    assert await is_open(flow_control)


async def test_small_messages_are_answered_every_few():
    """What was sent since the last one that is answered counts together."""
    flow_control = FlowControl(1, unanswered_bytes=100)
    assert [flow_control.consume(30) for _ in range(3)] == [False, False, False]
    assert await is_open(flow_control)
    assert flow_control.consume(30)
    assert not await is_open(flow_control)
    flow_control.grant()
    assert not flow_control.consume(30)


async def test_a_waiting_sender_continues_with_the_answer():
    """And without limit once the caller sends no more requests."""
    flow_control = FlowControl(1, unanswered_bytes=1)
    for release in (flow_control.grant, flow_control.lift_limit):
        flow_control.consume(1)
        waiting = asyncio.create_task(flow_control.available())
        await asyncio.sleep(0)
        assert not waiting.done()
        release()
        async with asyncio.timeout(20):
            await waiting
    flow_control.consume(1)
    assert await is_open(flow_control)
