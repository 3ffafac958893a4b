"""The limiter of in-flight calls."""

import asyncio

import pytest

from vllama_server.errors import Draining, EngineBusy, EngineDead, NotReady
from vllama_server.lifecycle import Lifecycle
from vllama_server.limiter import InFlightLimiter


@pytest.fixture
def lifecycle():
    """A worker that serves."""
    lifecycle = Lifecycle()
    lifecycle.mark_ready()
    return lifecycle


@pytest.fixture
def limiter(lifecycle):
    """Capacity for two streams and one that waits."""
    limiter = InFlightLimiter(lifecycle)
    limiter.set_capacity(2, 1)
    return limiter


async def call(limiter, request_id, may_end):
    """Runs until it may end; returns the id that it had in the engine."""
    with limiter.admit(request_id) as engine_id:
        await may_end.wait()
        return engine_id


async def test_running_calls_are_counted(limiter):
    """A call counts from its admission to its end."""
    may_end = asyncio.Event()
    tasks = [asyncio.create_task(call(limiter, str(number), may_end)) for number in range(3)]
    await asyncio.sleep(0)
    assert limiter.in_flight == 3
    may_end.set()
    await asyncio.gather(*tasks)
    assert limiter.in_flight == 0


async def test_calls_beyond_the_capacity_are_refused(limiter):
    """Streams and queue together are the capacity; a call that ends frees its share."""
    may_end = asyncio.Event()
    tasks = [asyncio.create_task(call(limiter, str(number), may_end)) for number in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(EngineBusy, match="3 requests"):
        await call(limiter, "more", may_end)
    may_end.set()
    await asyncio.gather(*tasks)
    assert await call(limiter, "more", may_end) == "more"


async def test_a_call_that_computes_nothing_uses_no_capacity(limiter):
    """It is admitted when all capacity is used, and leaves it to others."""
    may_end = asyncio.Event()
    tasks = [asyncio.create_task(call(limiter, str(number), may_end)) for number in range(2)]
    await asyncio.sleep(0)
    with limiter.admit("tokenize", uses_capacity=False):
        tasks.append(asyncio.create_task(call(limiter, "third", may_end)))
        await asyncio.sleep(0)
        assert limiter.in_flight == 4
    with limiter.admit("tokenize", uses_capacity=False):
        assert limiter.in_flight == 4
    may_end.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda life: life.mark_draining(), Draining),
        (lambda life: life.mark_failed("boom"), EngineDead),
        (lambda life: None, NotReady),
    ],
)
async def test_the_state_of_the_worker_decides(change, error):
    """Only a ready worker admits calls."""
    lifecycle = Lifecycle()
    change(lifecycle)
    limiter = InFlightLimiter(lifecycle)
    limiter.set_capacity(1, 1)
    with pytest.raises(error):
        await call(limiter, "r", asyncio.Event())


async def test_live_ids_are_unique(limiter):
    """A second call of one id gets another one; after the first has ended the id is free."""
    may_end = asyncio.Event()
    tasks = [asyncio.create_task(call(limiter, "same", may_end)) for _ in range(3)]
    await asyncio.sleep(0)
    may_end.set()
    assert await asyncio.gather(*tasks) == ["same", "same#2", "same#3"]
    assert await call(limiter, "same", may_end) == "same"


async def test_evicting_ends_every_call_with_the_error(limiter):
    """Each raises the given error."""
    tasks = [asyncio.create_task(call(limiter, str(number), asyncio.Event())) for number in range(3)]
    await asyncio.sleep(0)
    assert limiter.evict(EngineDead("boom")) == 3
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [EngineDead] * 3
    assert limiter.in_flight == 0
    await limiter.drained()


async def test_a_caller_that_cancels_is_not_evicted(limiter):
    """Cancellation from outside stays cancellation."""
    task = asyncio.create_task(call(limiter, "r", asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert limiter.in_flight == 0


async def test_drained_waits_for_the_last(limiter):
    """A drain ends with the last call, not with the first."""
    first, last = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(call(limiter, "a", first)), asyncio.create_task(call(limiter, "b", last))]
    await asyncio.sleep(0)
    drained = asyncio.create_task(limiter.drained())
    first.set()
    await tasks[0]
    await asyncio.sleep(0)
    assert not drained.done()
    last.set()
    await asyncio.gather(*tasks, drained)
