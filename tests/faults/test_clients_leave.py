"""Clients that leave, dawdle, overload or send nonsense: the workers and the other clients are unharmed."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
import grpc
import psutil
import pytest

from tests.faults.load import MODEL, Load, Outcome, request_of
from vllama_protos.v1 import generation_pb2, generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.end_to_end.fleet_process import FleetProcess
    from tests.faults.conftest import Matrix
    from vllama_protos.v1 import fleet_pb2

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


async def idle(fleet: FleetProcess, seconds: float = 5.0) -> float:
    """Returns how long it took until no worker had anything to do, a place given away or a block in use."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while loop.time() - begun < seconds:
        workers = await asyncio.to_thread(fleet.workers)
        if not any(map(is_busy, workers)):
            return loop.time() - begun
        await asyncio.sleep(0.02)
    raise AssertionError(f"streams of clients that left are still running: {workers}")


def is_busy(worker: fleet_pb2.WorkerStatus) -> bool:
    """Whether something runs, waits or holds blocks of the KV cache; blocks of prefixes to reuse do not count."""
    report = worker.report
    in_use = report.running or report.waiting or report.queued_prompt_tokens or report.kv_cache_use
    return bool(worker.leases or in_use)


async def leave(stub: generation_pb2_grpc.GenerationStub, request: generation_pb2.GenerateRequest, kind: str) -> None:
    """Begins a call and cancels it at once, at its start, or at its first token."""
    call = stub.Generate(request, timeout=60)
    if kind == "queued":
        await asyncio.sleep(0.2)
    else:
        async for event in call:
            if event.WhichOneof("event") == ("started" if kind == "prefill" else "delta"):
                break
    call.cancel()


@pytest.mark.quick
async def test_disconnect_in_every_phase(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """4: clients leave while queued, in prefill and decoding; slots and KV blocks come back within a second."""
    running = fleet("--max-streams", "4", workers=2)
    async with grpc.aio.insecure_channel(running.target) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        for kind in ("decode", "prefill", "queued"):
            # Sixteen places are not there: some of these wait in the balancer whatever the phase.
            jobs = [leave(stub, request_of(f"{kind} {n} " * 4000, 5000), kind) for n in range(6)]
            await asyncio.gather(*jobs)
            took = await idle(running)
            matrix.add(f"4 clients leave: {kind}", Outcome(seconds=took), "run s = until idle")
            # Cancelling is immediate, reports follow within 100 ms, and one poll is 20 ms.
            assert took < 1.0


async def test_burst(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """8: ten times the capacity at once: what fits is served, the rest is refused at once with a delay to wait."""
    running = fleet("--max-streams", "4", "--max-queue", "16")
    before = psutil.Process(running.process.pid).memory_info().rss  # type: ignore[union-attr]
    outcome = await Load(running.target, clients=320, requests=1).run()
    grown = psutil.Process(running.process.pid).memory_info().rss - before  # type: ignore[union-attr]
    matrix.add("8 burst of 320 on a capacity of 32", outcome, f"refused {outcome.failed}, grew {grown >> 20} MiB")
    assert set(outcome.failed) == {"RESOURCE_EXHAUSTED"}
    assert outcome.complete >= 32
    assert not outcome.wrong
    assert not outcome.truncated
    assert grown < 100 << 20


async def test_slow_reader(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """9: a reader that takes a byte now and then delays no other client and fills no memory."""
    running = fleet("--engine-arg", "speed=10")
    before = psutil.Process(running.process.pid).memory_info().rss  # type: ignore[union-attr]
    body = json.dumps({"model": MODEL, "prompt": "slow", "raw": True, "options": {"num_predict": 50_000}}).encode()
    head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.http_port, limit=1)
    writer.write(head + body)
    await writer.drain()
    assert await reader.read(1)
    outcome = await Load(running.target, requests=50).run()
    grown = psutil.Process(running.process.pid).memory_info().rss - before  # type: ignore[union-attr]
    writer.transport.abort()
    matrix.add("9 reader of a byte now and then", outcome, f"grew {grown >> 20} MiB")
    assert outcome.clean, outcome
    assert grown < 100 << 20
    await idle(running)


@pytest.mark.quick
async def test_deadlines(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """12: a deadline of 2 s ends requests that run and requests that wait, and leaves nothing behind."""
    running = fleet("--max-streams", "2", workers=2)
    outcome = await Load(running.target, clients=8, requests=1, tokens=5000, timeout_seconds=2).run()
    matrix.add("12 deadline 2 s, four run and four wait", outcome)
    assert outcome.failed == {"DEADLINE_EXCEEDED": 8}
    await idle(running)


async def test_nonsense_counts_against_no_worker(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """18: oversized and malformed requests are refused by name and eject no worker."""
    running = fleet()
    refused: list[str] = []

    async def nonsense() -> None:
        options = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(running.target, options=options) as channel:
            stub = generation_pb2_grpc.GenerationStub(channel)
            bad = [
                generation_pb2.GenerateRequest(model=MODEL),
                generation_pb2.GenerateRequest(model="absent", prompt="x"),
                request_of("x" * 4_000_000, 5),
                request_of("x", 5, top_logprobs=99, logprobs=True),
                request_of("x" * (80 << 20), 5),
            ]
            for request in bad * 4:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    async for _event in stub.Generate(request, timeout=30):
                        pass
                refused.append(error.value.code().name)
        async with aiohttp.ClientSession() as session:
            for body in (b"", b"{", b"[]", b'{"model": 5}', b'{"model": "absent", "prompt": "x"}'):
                async with session.post(f"{running.url}/api/generate", data=body) as response:
                    assert response.status in (400, 404)

    outcome = await Load(running.target).run(nonsense)
    matrix.add("18 oversized and malformed requests", outcome, f"refused {len(refused)}")
    assert set(refused) <= {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
    assert outcome.clean, outcome
    assert all(worker.available and not worker.restarts for worker in running.workers())


@pytest.mark.quick
async def test_balancer_terminated(fleet: Callable[..., FleetProcess], matrix: Matrix) -> None:
    """19: SIGTERM of the balancer lets running streams finish, then everything ends with status 0."""
    running = fleet()
    load = Load(running.target, clients=16, requests=1, tokens=200)

    async def terminate() -> None:
        while sum(worker.leases for worker in await asyncio.to_thread(running.workers)) < 16:
            await asyncio.sleep(0.01)
        assert running.process is not None
        running.process.terminate()

    family = running.family()
    outcome = await load.run(terminate)
    status = await asyncio.to_thread(running.stop)
    matrix.add("19 SIGTERM of the balancer", outcome)
    assert outcome.clean, outcome
    assert status == 0
    _gone, alive = await asyncio.to_thread(psutil.wait_procs, family, 5)
    assert not alive
