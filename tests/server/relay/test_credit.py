"""How much may be under way: large messages one by one, small ones by their bytes."""

import asyncio

from vllama_server.relay.credit import Credit


async def is_open(credit: Credit) -> bool:
    """Tells whether a message may be sent now."""
    waiting = asyncio.create_task(credit.some())
    await asyncio.sleep(0)
    is_done = waiting.done()
    waiting.cancel()
    await asyncio.wait({waiting})
    return is_done


async def test_large_messages_are_answered_one_by_one():
    """Two may be under way; the third waits for an answer."""
    credit = Credit(2, unanswered_bytes=100)
    assert credit.spend(100)
    assert await is_open(credit)
    assert credit.spend(5000)
    assert not await is_open(credit)
    credit.add()
    assert await is_open(credit)


async def test_small_messages_are_answered_every_few():
    """What was sent since the last one that is answered counts together."""
    credit = Credit(1, unanswered_bytes=100)
    assert [credit.spend(30) for _ in range(3)] == [False, False, False]
    assert await is_open(credit)
    assert credit.spend(30)
    assert not await is_open(credit)
    credit.add()
    assert not credit.spend(30)


async def test_whoever_waits_goes_on_with_the_answer():
    """And once nobody is left who would answer, with everything."""
    credit = Credit(1, unanswered_bytes=1)
    for release in (credit.add, credit.lift):
        credit.spend(1)
        waiting = asyncio.create_task(credit.some())
        await asyncio.sleep(0)
        assert not waiting.done()
        release()
        await asyncio.wait_for(waiting, 20)
    credit.spend(1)
    assert await is_open(credit)
