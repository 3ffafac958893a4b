"""The door to the engine."""

import asyncio

import pytest

from vllama_server.errors import Draining, EngineBusy, EngineDead, NotReady
from vllama_server.lifecycle import Lifecycle
from vllama_server.limiter import InFlightLimiter


@pytest.fixture
def lifecycle():
    """A worker that serves."""
    lifecycle = Lifecycle()
    lifecycle.ready()
    return lifecycle


@pytest.fixture
def limiter(lifecycle):
    """Room for two streams and one that waits."""
    limiter = InFlightLimiter(lifecycle)
    limiter.set_capacity(2, 1)
    return limiter


async def stay(limiter, request_id, leave):
    """Is inside until told to leave; returns the id it had."""
    with limiter.admit(request_id) as engine_id:
        await leave.wait()
        return engine_id


async def test_the_gate_counts_who_is_inside(limiter):
    """A call counts from its entry to its end."""
    leave = asyncio.Event()
    tasks = [asyncio.create_task(stay(limiter, str(number), leave)) for number in range(3)]
    await asyncio.sleep(0)
    assert limiter.in_flight == 3
    leave.set()
    await asyncio.gather(*tasks)
    assert limiter.in_flight == 0


async def test_a_full_gate_refuses(limiter):
    """Streams and queue together are the capacity, and a leaving call makes room."""
    leave = asyncio.Event()
    tasks = [asyncio.create_task(stay(limiter, str(number), leave)) for number in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(EngineBusy, match="3 requests"):
        await stay(limiter, "more", leave)
    leave.set()
    await asyncio.gather(*tasks)
    assert await stay(limiter, "more", leave) == "more"


async def test_a_call_that_computes_nothing_takes_no_place(limiter):
    """It comes in when all places are taken, and leaves them to others."""
    leave = asyncio.Event()
    tasks = [asyncio.create_task(stay(limiter, str(number), leave)) for number in range(2)]
    await asyncio.sleep(0)
    with limiter.admit("tokenize", uses_capacity=False):
        tasks.append(asyncio.create_task(stay(limiter, "third", leave)))
        await asyncio.sleep(0)
        assert limiter.in_flight == 4
    with limiter.admit("tokenize", uses_capacity=False):
        assert limiter.in_flight == 4
    leave.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda life: life.draining(), Draining),
        (lambda life: life.failed("boom"), EngineDead),
        (lambda life: None, NotReady),
    ],
)
async def test_the_state_of_the_worker_decides(change, error):
    """Only a ready worker lets calls in."""
    lifecycle = Lifecycle()
    change(lifecycle)
    limiter = InFlightLimiter(lifecycle)
    limiter.set_capacity(1, 1)
    with pytest.raises(error):
        await stay(limiter, "r", asyncio.Event())


async def test_live_ids_are_unique(limiter):
    """A second call of one id gets another one; after the first has left the id is free."""
    leave = asyncio.Event()
    tasks = [asyncio.create_task(stay(limiter, "same", leave)) for _ in range(3)]
    await asyncio.sleep(0)
    leave.set()
    assert await asyncio.gather(*tasks) == ["same", "same#2", "same#3"]
    assert await stay(limiter, "same", leave) == "same"


async def test_evicting_ends_every_call_with_the_error(limiter):
    """Who waits inside is thrown out and knows why."""
    tasks = [asyncio.create_task(stay(limiter, str(number), asyncio.Event())) for number in range(3)]
    await asyncio.sleep(0)
    assert limiter.evict(EngineDead("boom")) == 3
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [EngineDead] * 3
    assert limiter.in_flight == 0
    await limiter.drained()


async def test_a_caller_that_cancels_is_not_evicted(limiter):
    """Cancellation from outside stays cancellation."""
    task = asyncio.create_task(stay(limiter, "r", asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert limiter.in_flight == 0


async def test_emptied_waits_for_the_last(limiter):
    """A drain ends with the last call, not with the first."""
    first, last = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(stay(limiter, "a", first)), asyncio.create_task(stay(limiter, "b", last))]
    await asyncio.sleep(0)
    emptied = asyncio.create_task(limiter.drained())
    first.set()
    await tasks[0]
    await asyncio.sleep(0)
    assert not emptied.done()
    last.set()
    await asyncio.gather(*tasks, emptied)
