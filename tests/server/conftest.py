"""A worker in this process: real gRPC over a unix socket, the simulated engine behind it."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from tests.server.worker_process import WorkerProcess
from vllama_protos.v1.embedding_pb2_grpc import EmbeddingStub
from vllama_protos.v1.generation_pb2_grpc import GenerationStub
from vllama_protos.v1.worker_pb2_grpc import WorkerStub
from vllama_server.config import WorkerConfig
from vllama_server.fake_engine.engine import FakeEngine
from vllama_server.fake_engine.simulation_profile import SimulationProfile
from vllama_server.identity import WorkerIdentity
from vllama_server.metrics import WorkerMetrics
from vllama_server.serving import ExitStatus, WorkerServer
from vllama_server.signals import StopRequests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from vllama_server.engine.protocol import Engine

FLAT_OUT = SimulationProfile(step_seconds=0.0, step_seconds_per_stream=0.0, prefill_tokens_per_second=0.0)
"""A profile whose steps take no time."""
PATIENCE_SECONDS = 20.0
"""Longest wait of a test for something that must happen."""


class VirtualClock:
    """Time that passes at once in every sleep."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        """The present."""
        return self.now

    async def sleep_until(self, time: float) -> None:
        """Jumps to that time and lets other tasks run."""
        self.now = max(self.now, time)
        await asyncio.sleep(0)


@dataclass
class RunningWorker:
    """A worker that runs, and the ways to reach it."""

    server: WorkerServer
    engine: Engine
    stops: StopRequests
    registry: CollectorRegistry
    channel: grpc.aio.Channel
    ended: asyncio.Task[ExitStatus]

    @property
    def generation(self) -> GenerationStub:
        """Calls vllama.v1.Generation."""
        return GenerationStub(self.channel)

    @property
    def embedding(self) -> EmbeddingStub:
        """Calls vllama.v1.Embedding."""
        return EmbeddingStub(self.channel)

    @property
    def worker(self) -> WorkerStub:
        """Calls vllama.v1.Worker."""
        return WorkerStub(self.channel)

    async def generations_ended(self, code: str) -> float:
        """Waits until a generation has ended with a status code and returns how many have."""
        labels = {"method": "Generate", "code": code}
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (count := self.registry.get_sample_value("vllama_worker_requests_total", labels)):
                await asyncio.sleep(0.005)
        return count

    async def exit_status(self) -> ExitStatus:
        """Waits for the worker to end."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.shield(self.ended)


@pytest.fixture
def clock() -> VirtualClock:
    """A clock that never makes a test wait."""
    return VirtualClock()


@pytest.fixture
async def start_worker(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[RunningWorker]]]:
    """Starts workers that end with the test; settings are those of WorkerConfig."""
    async with AsyncExitStack() as stack:
        count = 0

        async def start(engine: Engine | None = None, *, ready: bool = True, **settings: object) -> RunningWorker:
            nonlocal count
            count += 1
            listen = f"unix:{tmp_path}/{count}.sock"
            defaults = {"model": "tiny", "engine": "fake", "listen": listen, "drain_timeout_seconds": 5.0}
            config = WorkerConfig(**(defaults | settings))
            worker = await _run(config, engine or FakeEngine(FLAT_OUT), stack)
            if ready:
                await until_ready(worker)
            return worker

        yield start


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[WorkerProcess]]]:
    """Starts workers in processes of their own, given a model and flags, that end with the test."""
    async with AsyncExitStack() as stack:
        count = itertools.count()

        async def start(
            *arguments: str,
            model: str = "tiny",
            engine: str = "fake",
            ready: bool = True,
            listen: str = "",
            **options: Any,
        ) -> WorkerProcess:
            number = next(count)
            address, log = listen or f"unix:{tmp_path}/{number}.sock", tmp_path / f"{number}.log"
            worker = WorkerProcess(address, log, (model, "--engine", engine, *arguments), options)
            stack.push_async_callback(worker.end)
            if ready:
                await worker.ready()
            return worker

        yield start


async def _run(config: WorkerConfig, engine: Engine, stack: AsyncExitStack) -> RunningWorker:
    stops, registry = StopRequests(), CollectorRegistry()
    identity = WorkerIdentity(config.name, config.names)
    server = WorkerServer(config, engine, identity, WorkerMetrics(registry), stops)
    server.bind()
    ended = asyncio.create_task(server.run())

    async def end() -> None:
        stops.request()
        stops.request()
        await asyncio.wait({ended})

    stack.push_async_callback(end)
    channel = grpc.aio.insecure_channel(server.address)
    stack.push_async_callback(channel.close)
    return RunningWorker(server, engine, stops, registry, channel, ended)


async def until_ready(worker: RunningWorker) -> None:
    """Waits until the worker reports READY."""
    from vllama_protos.v1 import worker_pb2

    async with asyncio.timeout(PATIENCE_SECONDS):
        call = worker.worker.Watch(worker_pb2.WatchRequest(), wait_for_ready=True)
        async for report in call:
            if report.state == worker_pb2.WORKER_STATE_READY:
                break
        call.cancel()
