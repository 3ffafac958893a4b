"""vllama.v1.Worker over a real channel: description, reports and drain."""

import asyncio

import grpc
from google.protobuf.duration_pb2 import Duration

from tests.server.engines import ScriptedEngine, started
from tests.server.statuses import all_of, details_of, error_of
from vllama_protos.v1 import generation_pb2, worker_pb2
from vllama_server.engine.protocol import EngineLoad
from vllama_server.fake_engine.engine import FakeEngine
from vllama_server.fake_engine.simulation_profile import SimulationProfile


def request(max_tokens=5):
    """Makes a request of a known length."""
    return generation_pb2.GenerateRequest(prompt="x", sampling=generation_pb2.Sampling(max_tokens=max_tokens))


async def report_of(watch, wanted):
    """Reads reports until one is as wanted."""
    async with asyncio.timeout(10):
        while not wanted(report := await watch.read()):
            pass
    return report


async def test_a_worker_describes_what_it_hosts(start_worker):
    """Names, capabilities, sizes, and that it is simulated."""
    worker = await start_worker(served_names=("a", "b"), name="worker-3")
    described = await worker.worker.Describe(worker_pb2.DescribeRequest())
    assert described.worker == "worker-3"
    assert list(described.models) == ["a", "b"]
    assert worker_pb2.CAPABILITY_COMPLETION in described.capabilities
    assert described.context_length == 4096
    assert (described.max_streams, described.kv_cache_tokens, described.block_tokens) == (64, 200_000, 16)
    assert described.device.kind == "simulated"
    assert described.simulated
    assert {"vllama", "python"} <= set(described.versions)


async def test_a_starting_worker_describes_itself_without_its_model(start_worker):
    """Describe never fails; the engine's fields are empty."""
    worker = await start_worker(ScriptedEngine(), ready=False)
    described = await worker.worker.Describe(worker_pb2.DescribeRequest(), wait_for_ready=True)
    assert described.worker == "worker-0"
    assert described.boot_id
    assert list(described.models) == ["tiny"]
    assert described.context_length == 0
    assert not described.capabilities


async def test_reports_follow_the_start(start_worker):
    """A watcher sees phases and progress, then READY."""
    engine = ScriptedEngine()
    worker = await start_worker(engine, ready=False)
    watch = worker.worker.Watch(worker_pb2.WatchRequest(), wait_for_ready=True)
    await report_of(watch, lambda report: report.state == worker_pb2.WORKER_STATE_STARTING)
    engine.progress(worker_pb2.START_PHASE_LOAD, 0.5)
    report = await report_of(watch, lambda report: report.phase == worker_pb2.START_PHASE_LOAD)
    assert report.progress == 0.5
    engine.may_start.set()
    report = await report_of(watch, lambda report: report.state == worker_pb2.WORKER_STATE_READY)
    assert report.phase == worker_pb2.START_PHASE_UNSPECIFIED


async def test_reports_have_the_load(start_worker):
    """Every number of the engine's load is in the report."""
    engine = started()
    engine.reported = EngineLoad(3, 2, 0.5, 70, 1000.0, 90.0, 0.25, 0.75, 1.5)
    worker = await start_worker(engine)
    watch = worker.worker.Watch(worker_pb2.WatchRequest())
    report = await report_of(watch, lambda report: report.running == 3)
    assert (report.waiting, report.kv_cache_use, report.queued_prompt_tokens) == (2, 0.5, 70)
    assert (report.prefill_tokens_per_second, report.decode_tokens_per_second) == (1000.0, 90.0)
    assert (report.step.nanos, report.prefix_hit_rate) == (250_000_000, 0.75)
    assert (report.last_step_age.seconds, report.last_step_age.nanos) == (1, 500_000_000)


async def test_many_watchers_see_the_same_change(start_worker):
    """A change reaches all of them, each with its own stream."""
    engine = started()
    worker = await start_worker(engine)
    watches = [worker.worker.Watch(worker_pb2.WatchRequest()) for _ in range(20)]
    for watch in watches:
        await watch.read()
    engine.reported = EngineLoad(running=7)
    reports = await asyncio.gather(*(report_of(watch, lambda report: report.running == 7) for watch in watches))
    assert len({report.uptime.ToNanoseconds() for report in reports}) == 1


async def test_a_draining_worker_refuses_new_requests_and_finishes_old_ones(start_worker):
    """Drain answers when the last stream has ended; what comes meanwhile goes elsewhere."""
    worker = await start_worker(FakeEngine(SimulationProfile(step_seconds=0.005)))
    running = asyncio.create_task(all_of(worker.generation.Generate(request(60))))
    async with asyncio.timeout(5):
        while not worker.engine.load().running:
            await asyncio.sleep(0.005)
    draining = asyncio.create_task(_drain(worker))
    watch = worker.worker.Watch(worker_pb2.WatchRequest())
    await report_of(watch, lambda report: report.state == worker_pb2.WORKER_STATE_DRAINING)
    error = await error_of(all_of(worker.generation.Generate(request())))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert details_of(error)[0].reason == "WORKER_DRAINING"
    assert (await draining).remaining_streams == 0
    assert (await running)[-1].finished.usage.completion_tokens == 60


async def _drain(worker, **fields):
    return await worker.worker.Drain(worker_pb2.DrainRequest(**fields))


async def test_a_drain_answers_at_its_deadline(start_worker):
    """It then says how many streams are left, and ends none of them."""
    engine = started()
    engine.may_end.clear()
    worker = await start_worker(engine)
    running = asyncio.create_task(all_of(worker.generation.Generate(request())))
    async with asyncio.timeout(5):
        while not engine.requests:
            await asyncio.sleep(0.005)
    assert (await _drain(worker, deadline=Duration(nanos=50_000_000))).remaining_streams == 1
    engine.may_end.set()
    assert (await running)[-1].WhichOneof("event") == "finished"


async def test_a_drain_is_taken_back(start_worker):
    """The worker serves again, also when it did not drain."""
    worker = await start_worker()
    for _ in range(2):
        await worker.worker.Undrain(worker_pb2.UndrainRequest())
        assert await all_of(worker.generation.Generate(request()))
        await _drain(worker)
        assert (await error_of(all_of(worker.generation.Generate(request())))).code() == grpc.StatusCode.UNAVAILABLE


async def test_the_drain_of_a_worker_that_ends_is_not_taken_back(start_worker):
    """After the stop signal, while streams finish."""
    engine = started()
    engine.may_end.clear()
    worker = await start_worker(engine)
    running = asyncio.create_task(all_of(worker.generation.Generate(request())))
    async with asyncio.timeout(5):
        while not engine.requests:
            await asyncio.sleep(0.005)
    watch = worker.worker.Watch(worker_pb2.WatchRequest())
    worker.stops.drain.set()
    await report_of(watch, lambda report: report.state == worker_pb2.WORKER_STATE_DRAINING)
    error = await error_of(worker.worker.Undrain(worker_pb2.UndrainRequest()))
    assert details_of(error)[0].reason == "WORKER_DRAINING"
    engine.may_end.set()
    await running


async def test_a_negative_deadline_is_refused(start_worker):
    """The field is named, and the worker goes on serving."""
    worker = await start_worker()
    error = await error_of(_drain(worker, deadline=Duration(seconds=-1)))
    assert details_of(error)[0].metadata["field"] == "deadline"
    assert await all_of(worker.generation.Generate(request()))


async def test_a_starting_worker_refuses_requests(start_worker):
    """UNAVAILABLE, with a hint when to come back."""
    worker = await start_worker(ScriptedEngine(), ready=False)
    error = await error_of(all_of(worker.generation.Generate(request(), wait_for_ready=True)))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    info, retry = details_of(error)
    assert info.reason == "WORKER_STARTING"
    assert retry is not None
