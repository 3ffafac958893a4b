"""The worker from start to stop, in this process."""

import asyncio
import time

import grpc
import pytest

from tests.server.engines import ScriptedEngine, started
from tests.server.statuses import all_of, details_of, error_of
from vllama_protos.v1 import generation_pb2, worker_pb2
from vllama_server.errors import StartFailed
from vllama_server.fake_engine.engine import FakeEngine
from vllama_server.fake_engine.simulation_profile import Faults, SimulationProfile
from vllama_server.serving import ExitStatus


def request(max_tokens=5):
    """Makes a request of a known length."""
    return generation_pb2.GenerateRequest(prompt="x", sampling=generation_pb2.Sampling(max_tokens=max_tokens))


async def running_call(worker, one=None):
    """Starts a generation and waits until it has begun."""
    call = worker.generation.Generate(one or request())
    events = []

    async def read():
        while (event := await call.read()) is not grpc.aio.EOF:
            events.append(event)
        return events

    task = asyncio.create_task(read())
    async with asyncio.timeout(5):
        while not events:
            await asyncio.sleep(0.005)
    return task


async def test_an_idle_worker_stops_at_once(start_worker):
    """There is nothing to wait for."""
    worker = await start_worker()
    worker.stops.request()
    assert await worker.exit_status() is ExitStatus.STOPPED


async def test_stopping_finishes_what_runs(start_worker):
    """The first request to stop drains: the stream comes to its end."""
    worker = await start_worker(FakeEngine(SimulationProfile(step_seconds=0.005)))
    call = await running_call(worker, request(50))
    worker.stops.request()
    assert (await call)[-1].finished.usage.completion_tokens == 50
    assert await worker.exit_status() is ExitStatus.STOPPED


async def test_a_drain_that_takes_too_long_hands_its_streams_on(start_worker):
    """They end UNAVAILABLE, so that another worker can take them over."""
    engine = started()
    engine.may_end.clear()
    worker = await start_worker(engine, drain_timeout_seconds=0.1)
    call = await running_call(worker)
    worker.stops.request()
    error = await error_of(call)
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert details_of(error)[0].reason == "WORKER_DRAINING"
    assert await worker.exit_status() is ExitStatus.STOPPED
    assert engine.closed.is_set()


async def test_a_second_request_to_stop_aborts(start_worker):
    """Streams are not waited for any longer."""
    engine = started()
    engine.may_end.clear()
    worker = await start_worker(engine, drain_timeout_seconds=3600.0)
    call = await running_call(worker)
    worker.stops.request()
    await asyncio.sleep(0)
    worker.stops.request()
    error = await error_of(call)
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert await worker.exit_status() is ExitStatus.STOPPED


async def test_stopping_while_the_engine_starts_ends_the_start(start_worker):
    """The engine is stopped, and that is no failure."""
    engine = ScriptedEngine()
    worker = await start_worker(engine, ready=False)
    worker.stops.request()
    assert await worker.exit_status() is ExitStatus.STOPPED
    assert engine.stopped
    assert not engine.stopped_at_once


@pytest.mark.parametrize("error", [StartFailed("no memory; lower --max-model-len"), RuntimeError("odd")])
async def test_a_failed_start_reports_its_cause(start_worker, error):
    """Watchers get FAILED with the root cause; the exit status is that of a failed start."""
    engine = ScriptedEngine()
    engine.start_error = error
    worker = await start_worker(engine, ready=False)
    watch = worker.worker.Watch(worker_pb2.WatchRequest(), wait_for_ready=True)
    await watch.read()
    engine.may_start.set()
    reports = []
    while (report := await watch.read()) is not grpc.aio.EOF:
        reports.append(report)
    assert reports[-1].state == worker_pb2.WORKER_STATE_FAILED
    assert reports[-1].failure == str(error)
    assert await worker.exit_status() is ExitStatus.START_FAILED
    assert engine.stopped


async def test_a_dead_engine_ends_the_worker(start_worker):
    """In-flight calls end UNAVAILABLE with the cause, the last report is FAILED, nothing waits for the engine."""
    engine = started()
    engine.may_end.clear()
    worker = await start_worker(engine)
    call = await running_call(worker)
    watch = asyncio.create_task(all_of(worker.worker.Watch(worker_pb2.WatchRequest())))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    engine.die("the GPU has fallen off the bus")
    error = await error_of(call)
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "fallen off the bus" in error.details()
    assert details_of(error)[0].reason == "ENGINE_DEAD"
    report = (await watch)[-1]
    assert (report.state, report.failure) == (worker_pb2.WORKER_STATE_FAILED, "the GPU has fallen off the bus")
    assert await worker.exit_status() is ExitStatus.ENGINE_DIED
    assert engine.stopped_at_once, "a hung engine is killed"
    assert time.monotonic() - began < 3


async def test_an_engine_that_dies_while_draining_is_a_dead_engine(start_worker):
    """The drain does not hide it."""
    engine = started()
    engine.may_end.clear()
    worker = await start_worker(engine, drain_timeout_seconds=3600.0)
    call = await running_call(worker)
    worker.stops.request()
    await asyncio.sleep(0.05)
    engine.die("boom")
    assert (await error_of(call)).code() == grpc.StatusCode.UNAVAILABLE
    assert await worker.exit_status() is ExitStatus.ENGINE_DIED


async def test_a_hung_engine_is_taken_for_dead(start_worker):
    """Work without a step for longer than the limit ends the worker like a death."""
    engine = FakeEngine(SimulationProfile(step_seconds=0.001), Faults(hang_after_tokens=3))
    worker = await start_worker(engine, stall_seconds=0.4)
    call = await running_call(worker, request(100))
    error = await error_of(call)
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "no step" in error.details()
    assert await worker.exit_status() is ExitStatus.ENGINE_DIED


async def test_a_stalled_reader_is_ended_with_the_worker(start_worker):
    """A client that never reads cannot keep a worker from ending."""
    worker = await start_worker(drain_timeout_seconds=0.1)
    big = generation_pb2.GenerateRequest(
        prompt="x" * 12_000, return_prompt_token_ids=True, sampling=generation_pb2.Sampling(max_tokens=-1)
    )
    calls = [worker.generation.Generate(big) for _ in range(8)]
    for call in calls:
        await call.read()
    worker.stops.request()
    assert await worker.exit_status() is ExitStatus.STOPPED


async def test_an_engine_that_cannot_report_ends_the_worker(start_worker):
    """A worker that watchers and balancer could not see is not left running."""
    engine = started()
    worker = await start_worker(engine)
    engine.reported = None
    assert await worker.exit_status() is ExitStatus.ENGINE_DIED


async def test_an_engine_whose_death_cannot_be_watched_is_dead(start_worker):
    """The exception of the watch is the cause."""
    engine = started()
    worker = await start_worker(engine)
    engine.death.set_exception(RuntimeError("the watch broke"))
    assert await worker.exit_status() is ExitStatus.ENGINE_DIED


async def test_a_dead_engine_still_describes_itself(start_worker):
    """Describe returns the description from before."""
    engine = started()
    worker = await start_worker(engine)
    before = await worker.worker.Describe(worker_pb2.DescribeRequest())
    engine.describe = None
    assert await worker.worker.Describe(worker_pb2.DescribeRequest()) == before
