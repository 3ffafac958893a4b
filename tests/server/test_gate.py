"""The door to the engine."""

import asyncio

import pytest

from vllama_server.errors import Draining, EngineBusy, EngineDead, NotReady
from vllama_server.gate import Gate
from vllama_server.lifecycle import Lifecycle


@pytest.fixture
def lifecycle():
    """A worker that serves."""
    lifecycle = Lifecycle()
    lifecycle.ready()
    return lifecycle


@pytest.fixture
def gate(lifecycle):
    """Room for two streams and one that waits."""
    gate = Gate(lifecycle)
    gate.open(2, 1)
    return gate


async def stay(gate, request_id, leave):
    """Is inside until told to leave; returns the id it had."""
    with gate.enter(request_id) as engine_id:
        await leave.wait()
        return engine_id


async def test_the_gate_counts_who_is_inside(gate):
    """A call counts from its entry to its end."""
    leave = asyncio.Event()
    tasks = [asyncio.create_task(stay(gate, str(number), leave)) for number in range(3)]
    await asyncio.sleep(0)
    assert gate.inside == 3
    leave.set()
    await asyncio.gather(*tasks)
    assert gate.inside == 0


async def test_a_full_gate_refuses(gate):
    """Streams and queue together are the capacity, and a leaving call makes room."""
    leave = asyncio.Event()
    tasks = [asyncio.create_task(stay(gate, str(number), leave)) for number in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(EngineBusy, match="3 requests"):
        await stay(gate, "more", leave)
    leave.set()
    await asyncio.gather(*tasks)
    assert await stay(gate, "more", leave) == "more"


async def test_a_call_that_computes_nothing_takes_no_place(gate):
    """It comes in when all places are taken, and leaves them to others."""
    leave = asyncio.Event()
    tasks = [asyncio.create_task(stay(gate, str(number), leave)) for number in range(2)]
    await asyncio.sleep(0)
    with gate.enter("tokenize", takes_place=False):
        tasks.append(asyncio.create_task(stay(gate, "third", leave)))
        await asyncio.sleep(0)
        assert gate.inside == 4
    with gate.enter("tokenize", takes_place=False):
        assert gate.inside == 4
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
    gate = Gate(lifecycle)
    gate.open(1, 1)
    with pytest.raises(error):
        await stay(gate, "r", asyncio.Event())


async def test_live_ids_are_unique(gate):
    """A second call of one id gets another one; after the first has left the id is free."""
    leave = asyncio.Event()
    tasks = [asyncio.create_task(stay(gate, "same", leave)) for _ in range(3)]
    await asyncio.sleep(0)
    leave.set()
    assert await asyncio.gather(*tasks) == ["same", "same#2", "same#3"]
    assert await stay(gate, "same", leave) == "same"


async def test_evicting_ends_every_call_with_the_error(gate):
    """Who waits inside is thrown out and knows why."""
    tasks = [asyncio.create_task(stay(gate, str(number), asyncio.Event())) for number in range(3)]
    await asyncio.sleep(0)
    assert gate.evict(EngineDead("boom")) == 3
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [EngineDead] * 3
    assert gate.inside == 0
    await gate.emptied()


async def test_a_caller_that_cancels_is_not_evicted(gate):
    """Cancellation from outside stays cancellation."""
    task = asyncio.create_task(stay(gate, "r", asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.inside == 0


async def test_emptied_waits_for_the_last(gate):
    """A drain ends with the last call, not with the first."""
    first, last = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(stay(gate, "a", first)), asyncio.create_task(stay(gate, "b", last))]
    await asyncio.sleep(0)
    emptied = asyncio.create_task(gate.emptied())
    first.set()
    await tasks[0]
    await asyncio.sleep(0)
    assert not emptied.done()
    last.set()
    await asyncio.gather(*tasks, emptied)
