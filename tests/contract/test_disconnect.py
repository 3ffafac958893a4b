"""A client that disconnects frees its place at once, whatever the state of its request."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.end_to_end.fleet_process import FleetProcess
from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

MODEL = "demo:1b"
LONG = "word " * 2500
"""Ten seconds of prefill at the speed of this worker, which takes four bytes for a token."""
CLIENTS = 3
"""They leave one after the other: there is one place, so one that is not given back stops the next client."""
PROMPT_SECONDS, LATE_SECONDS = 1.0, 5.0
"""The best one has its place freed within the first, so nothing waits for a time-out; each one within the second."""
PATHS = ["/api/chat", "/v1/chat/completions", "/v1/messages"]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcess]:
    """One slow worker that takes one stream; more wait in the balancer."""
    folder = tmp_path_factory.mktemp("slow")
    arguments = [MODEL, "--workers", "1", "--engine", "fake", "--max-streams", "1", "--models", str(folder / "models")]
    arguments += ["--engine-arg", "step_seconds=0.02", "--engine-arg", "prefill_tokens_per_second=300"]
    arguments += ["--engine-arg", "step_tokens=16"]
    fleet = FleetProcess(arguments, folder / "fleet.log")
    fleet.start()
    try:
        fleet.wait_ready(1, 60)
        yield fleet
    finally:
        fleet.stop()


def body(path: str, prompt: str, *, stream: bool) -> dict[str, Any]:
    """A request that would go on for minutes."""
    messages = [{"role": "user", "content": prompt}]
    request: dict[str, Any] = {"model": MODEL, "messages": messages, "stream": stream}
    return request | ({"options": {"num_predict": 2000}} if path.startswith("/api") else {"max_tokens": 2000})


@asynccontextmanager
async def asking(fleet: FleetProcess, path: str, prompt: str, *, stream: bool = True) -> AsyncIterator[Any]:
    """Sends a request over a connection of its own, and gives that connection's two ends."""
    content = json.dumps(body(path, prompt, stream=stream)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.http_port)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def seconds_until(fleet: FleetProcess, holds: Callable[[fleet_pb2.ListWorkersResponse], bool]) -> float:
    """Polls the balancer; returns how long it took."""
    begun = time.monotonic()
    async with grpc.aio.insecure_channel(fleet.target) as channel, asyncio.timeout(30):
        stub = fleet_pb2_grpc.FleetStub(channel)
        while not holds(await stub.ListWorkers(fleet_pb2.ListWorkersRequest(), timeout=20, wait_for_ready=True)):
            await asyncio.sleep(0.02)
    return time.monotonic() - begun


def assert_prompt(took: list[float]) -> None:
    """Every one of them was in time, and the best one at once."""
    assert min(took) < PROMPT_SECONDS, took
    assert max(took) < LATE_SECONDS, took


async def first_event(reader: asyncio.StreamReader) -> None:
    """Reads to the end of a JSON object."""
    async with asyncio.timeout(30):
        await reader.readuntil(b"}")


def idle(listed: fleet_pb2.ListWorkersResponse) -> bool:
    """Nothing runs or waits, as far as balancer and worker know."""
    [worker] = listed.workers
    report = worker.report
    return not (listed.queued_requests or worker.leases or report.running or report.waiting or report.kv_cache_use)


def waiting(listed: fleet_pb2.ListWorkersResponse) -> int:
    """Counts the requests that wait for a model."""
    return sum(model.requests for model in listed.models)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_on_the_worker(slow: FleetProcess, phase: str, path: str) -> None:
    """The worker stops computing."""
    took = []
    for _ in range(CLIENTS):
        async with asking(slow, path, LONG if phase == "prefill" else "hi") as (reader, _):
            if phase == "decode":
                await first_event(reader)
            await seconds_until(slow, lambda listed: listed.workers[0].report.running == 1)
        took.append(await seconds_until(slow, idle))
    assert_prompt(took)


@pytest.mark.parametrize("stream", [True, False])
async def test_in_the_queue(slow: FleetProcess, stream: bool) -> None:
    """A place in the queue is given up, and the running stream is not disturbed."""
    took = []
    async with asking(slow, "/api/chat", "hi") as (running, _):
        await first_event(running)
        for _ in range(CLIENTS):
            async with asking(slow, "/api/chat", "hi again", stream=stream):
                await seconds_until(slow, lambda listed: listed.queued_requests == 1)
            took.append(await seconds_until(slow, lambda listed: listed.queued_requests == 0))
        await first_event(running)
    assert_prompt(took)
    await seconds_until(slow, idle)


async def test_while_the_model_starts(tmp_path: Path) -> None:
    """A request that waits for a worker to start is forgotten when its client goes."""
    arguments = [MODEL, "--workers", "1", "--engine", "fake", "--engine-arg", "start_seconds=3600"]
    fleet = FleetProcess([*arguments, "--models", str(tmp_path / "models")], tmp_path / "fleet.log")
    fleet.start()
    try:
        await seconds_until(fleet, lambda listed: len(listed.workers) == 1)
        took = []
        for _ in range(CLIENTS):
            async with asking(fleet, "/api/chat", "hi"):
                await seconds_until(fleet, lambda listed: waiting(listed) == 1)
            took.append(await seconds_until(fleet, lambda listed: waiting(listed) == 0))
        assert_prompt(took)
    finally:
        fleet.stop()
