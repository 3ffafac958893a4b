"""Sleep and wake of a worker: it sleeps when nothing runs, and wakes as the same worker."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from tests.server.engines import ScriptedEngine
from vllama_protos.v1 import generation_pb2, worker_pb2
from vllama_server.errors import EngineFault
from vllama_server.fake_engine.engine import FakeEngine
from vllama_server.fake_engine.simulation_profile import SimulationProfile, from_arguments

PROMPT = "a prompt of some length, so that its first blocks are worth remembering " * 4


class SleepyEngine(ScriptedEngine):
    """An engine that sleeps and wakes when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.may_start.set()
        self.may_sleep = asyncio.Event()
        self.moves: list[str] = []
        self.wake_error: Exception | None = None

    def describe(self):
        description = super().describe()
        description.can_sleep = True
        return description

    async def sleep(self) -> None:
        await self.may_sleep.wait()
        self.moves.append("sleep")

    async def wake(self) -> None:
        if self.wake_error is not None:
            raise self.wake_error
        self.moves.append("wake")


async def until_state(worker, state: int) -> None:
    """Waits for a report of that state."""
    async with asyncio.timeout(20):
        async for report in worker.worker.Watch(worker_pb2.WatchRequest()):
            if report.state == state:
                return


def sleepy() -> FakeEngine:
    """A simulated engine that can sleep."""
    return FakeEngine(SimulationProfile(step_seconds=0, step_seconds_per_stream=0, can_sleep=True))


async def generate(worker) -> list[generation_pb2.GenerateResponse]:
    """Generates a little."""
    request = generation_pb2.GenerateRequest(prompt=PROMPT, sampling=generation_pb2.Sampling(max_tokens=4))
    return [event async for event in worker.generation.Generate(request)]


async def test_a_worker_sleeps_and_serves_again_after_waking(start_worker) -> None:
    """It refuses requests meanwhile, says so in its reports, keeps its boot id, and has lost its cache."""
    worker = await start_worker(sleepy())
    before = await worker.worker.Describe(worker_pb2.DescribeRequest())
    assert before.can_sleep
    await generate(worker)
    await worker.worker.Sleep(worker_pb2.SleepRequest())
    await until_state(worker, worker_pb2.WORKER_STATE_SLEEPING)
    with pytest.raises(grpc.aio.AioRpcError, match="the worker sleeps; wake it"):
        await generate(worker)
    await worker.worker.Wake(worker_pb2.WakeRequest())
    events = await generate(worker)
    assert events[0].started.boot_id == before.boot_id
    assert events[0].started.cached_prompt_tokens == 0


async def test_an_engine_that_cannot_sleep_says_what_it_needs(start_worker) -> None:
    """FAILED_PRECONDITION, and the worker goes on serving."""
    worker = await start_worker()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await worker.worker.Sleep(worker_pb2.SleepRequest())
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "enable_sleep_mode" in caught.value.details()
    assert await generate(worker)


async def test_running_requests_end_before_the_worker_sleeps(start_worker) -> None:
    """Sleep waits for them, and new ones are refused from then on."""
    engine = SleepyEngine()
    engine.may_sleep.set()
    engine.may_end.clear()
    worker = await start_worker(engine)
    running = asyncio.create_task(generate(worker))
    async with asyncio.timeout(20):
        while not engine.requests:
            await asyncio.sleep(0.01)
    sleeping = asyncio.ensure_future(worker.worker.Sleep(worker_pb2.SleepRequest()))
    await until_state(worker, worker_pb2.WORKER_STATE_SLEEPING)
    assert not engine.moves and not sleeping.done()
    engine.may_end.set()
    await sleeping
    assert (await running)[-1].HasField("finished") and engine.moves == ["sleep"]


async def test_a_caller_that_leaves_does_not_stop_the_move(start_worker) -> None:
    """Half a model on the device is of no use; the next call waits for the first."""
    engine = SleepyEngine()
    worker = await start_worker(engine)
    with pytest.raises(grpc.aio.AioRpcError, match="Deadline"):
        await worker.worker.Sleep(worker_pb2.SleepRequest(), timeout=0.2)
    engine.may_sleep.set()
    await worker.worker.Wake(worker_pb2.WakeRequest())
    assert engine.moves == ["sleep", "wake"]


async def test_both_orders_may_be_given_twice(start_worker) -> None:
    """The second finds the work done."""
    engine = SleepyEngine()
    engine.may_sleep.set()
    worker = await start_worker(engine)
    await worker.worker.Wake(worker_pb2.WakeRequest())
    for _ in range(2):
        await worker.worker.Sleep(worker_pb2.SleepRequest())
    for _ in range(2):
        await worker.worker.Wake(worker_pb2.WakeRequest())
    assert engine.moves == ["sleep", "wake"]


async def test_a_wake_that_fails_leaves_the_worker_asleep(start_worker) -> None:
    """The caller learns why and may end it."""
    engine = SleepyEngine()
    engine.may_sleep.set()
    worker = await start_worker(engine)
    await worker.worker.Sleep(worker_pb2.SleepRequest())
    engine.wake_error = EngineFault("no memory")
    with pytest.raises(grpc.aio.AioRpcError, match="no memory"):
        await worker.worker.Wake(worker_pb2.WakeRequest())
    await until_state(worker, worker_pb2.WORKER_STATE_SLEEPING)


async def test_a_sleeping_worker_can_be_drained(start_worker) -> None:
    """There is nothing to finish, and it cannot be woken afterwards."""
    engine = SleepyEngine()
    engine.may_sleep.set()
    worker = await start_worker(engine)
    await worker.worker.Sleep(worker_pb2.SleepRequest())
    drained = await worker.worker.Drain(worker_pb2.DrainRequest())
    assert drained.remaining_streams == 0
    with pytest.raises(grpc.aio.AioRpcError, match="draining"):
        await worker.worker.Wake(worker_pb2.WakeRequest())


@pytest.mark.parametrize("text", ["yes", "2", ""])
def test_the_switch_of_the_simulated_engine_is_one_or_zero(text: str) -> None:
    """Anything else is refused with the right values."""
    with pytest.raises(ValueError, match="give 1 or 0"):
        from_arguments({"can_sleep": text})
