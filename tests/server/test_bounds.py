"""Bounds of a worker, for many and for slow clients."""

import asyncio
import subprocess
import sys
from contextlib import suppress
from hashlib import sha256
from random import Random

import grpc
import psutil
import pytest

from tests.server.statuses import all_of, error_of
from vllama_protos.v1 import generation_pb2 as pb
from vllama_protos.v1.generation_pb2_grpc import GenerationStub
from vllama_server.fake_engine.engine import FakeEngine
from vllama_server.fake_engine.simulation_profile import SimulationProfile
from vllama_server.serving import MESSAGE_BYTES

MIB = 1024 * 1024
FLAT_OUT = ("step_seconds=0", "step_seconds_per_stream=0", "prefill_tokens_per_second=0")


def request(prompt, max_tokens, **fields):
    """Makes a request of a known length."""
    return pb.GenerateRequest(prompt=prompt, sampling=pb.Sampling(max_tokens=max_tokens), **fields)


async def rest_of(call):
    """Reads what is left of a stream."""
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    return events


async def test_a_slow_reader_gets_everything_in_fewer_deltas(start_worker):
    """What it did not read in time was merged, and nothing is missing."""
    worker = await start_worker(FakeEngine(SimulationProfile(step_seconds=0.0001), context_tokens=8192))
    call = worker.generation.Generate(request("slow", 8000, logprobs=True))
    await call.read()
    async with asyncio.timeout(60):
        while worker.engine.load().running:
            await asyncio.sleep(0.01)
    *deltas, last = await rest_of(call)
    digest = sha256(b"slow").hexdigest()[:4]
    assert "".join(event.delta.text for event in deltas) == "".join(f" {digest}.{i}" for i in range(8000))
    assert last.finished.usage.completion_tokens == 8000
    assert len(deltas) < 8000


async def test_a_message_beyond_the_limit_is_refused(start_worker):
    """64 MiB is the most that one call may carry."""
    worker = await start_worker()
    error = await error_of(all_of(worker.generation.Generate(request("x" * (MESSAGE_BYTES + 1), 1))))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await all_of(worker.generation.Generate(request("x", 1)))


async def test_a_burst_is_served_or_refused_and_nothing_hangs(start_worker):
    """Of 200 requests at once as many are served as fit; the others are refused, and the limiter is idle afterwards."""
    worker = await start_worker(FakeEngine(SimulationProfile(max_streams=8, step_seconds=0.02)), max_queue=24)
    codes = await asyncio.gather(*(_code(worker.generation, number) for number in range(200)))
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes.count(grpc.StatusCode.OK) >= 32
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) > 0
    assert worker.registry.get_sample_value("vllama_worker_requests_in_flight") == 0


async def _code(stub, number):
    try:
        await all_of(stub.Generate(request(f"p{number}", 20)))
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.fixture
def process(tmp_path):
    """A worker process that computes as fast as it can, and its address."""
    address = f"unix:{tmp_path}/w.sock"
    arguments = [word for setting in FLAT_OUT for word in ("--engine-arg", setting)]
    command = [sys.executable, "-m", "vllama_server", "m", "--engine", "fake", "--max-model-len", "0"]
    worker = subprocess.Popen([*command, "--listen", address, *arguments], stderr=subprocess.DEVNULL)
    yield worker, address
    worker.kill()
    worker.wait()


async def test_memory_stays_flat_while_readers_stall(process):
    """Four readers that never read on, beside 16 that run again and again, cost no growing memory."""
    worker, address = process
    memory = psutil.Process(worker.pid)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = GenerationStub(channel)
        stalled = [stub.Generate(request(f"stalled {n}", 8000, logprobs=True), wait_for_ready=True) for n in range(4)]
        for call in stalled:
            await call.read()
        sizes = []
        for turn in range(4):
            await asyncio.gather(*(all_of(stub.Generate(request(f"{turn} {n}", 300))) for n in range(16)))
            sizes.append(memory.memory_info().rss)
        for call in stalled:
            call.cancel()
    assert sizes[-1] - sizes[0] < 8 * MIB


async def test_a_storm_of_cancellations_leaves_nothing_behind(start_worker, caplog):
    """Clients that leave at any moment cost no slot, no task and no error in the log."""
    worker = await start_worker(FakeEngine(SimulationProfile(max_streams=16, step_seconds=0.001)))
    random = Random(7)

    async def leave_early(number):
        call = worker.generation.Generate(request(f"p{number}", 200))
        events = random.randrange(6)
        with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            for _ in range(events):
                await call.read()
        call.cancel()

    await asyncio.gather(*(leave_early(number) for number in range(200)))
    async with asyncio.timeout(10):
        while worker.registry.get_sample_value("vllama_worker_requests_in_flight"):
            await asyncio.sleep(0.01)
    load = worker.engine.load()
    assert (load.running, load.waiting, load.kv_cache_use) == (0, 0, 0.0)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    assert (await all_of(worker.generation.Generate(request("after", 3))))[-1].finished.usage.completion_tokens == 3


async def test_a_client_that_dies_frees_its_places(start_worker):
    """When the connection breaks all its streams end in the engine."""
    worker = await start_worker(FakeEngine(SimulationProfile(step_seconds=0.005)))
    channel = grpc.aio.insecure_channel(worker.server.address, options=(("grpc.use_local_subchannel_pool", 1),))
    calls = [GenerationStub(channel).Generate(request(f"p{number}", 4000)) for number in range(8)]
    for call in calls:
        await call.read()
    assert worker.engine.load().running == 8
    await channel.close()
    async with asyncio.timeout(1):
        while worker.engine.load().running:
            await asyncio.sleep(0.01)
