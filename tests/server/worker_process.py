"""A worker as a process of its own: what its supervisor sees of it, and what its callers do with it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vllama_protos.v1 import generation_pb2, worker_pb2
from vllama_protos.v1.generation_pb2_grpc import GenerationStub
from vllama_protos.v1.worker_pb2_grpc import WorkerStub

if TYPE_CHECKING:
    Call = grpc.aio.UnaryStreamCall[generation_pb2.GenerateRequest, generation_pb2.GenerateResponse]

PATIENCE_SECONDS = 30.0
"""Longest wait for something that must happen."""
REAL_PATIENCE_SECONDS = 150.0
"""The same with an engine that has to be imported and loaded first, on a busy machine."""
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.use_local_subchannel_pool", 1),
)
"""A process that starts is found within a tenth of a second."""


class WorkerProcess:
    """A worker process and a channel to it."""

    def __init__(self, address: str, log: Path, arguments: tuple[str, ...], options: dict[str, Any]) -> None:
        """Starts it in a session of its own; `options` are those of subprocess.Popen."""
        command = [sys.executable, "-m", "vllama_server", "--listen", address, *arguments]
        with log.open("wb") as sink:
            self.process = subprocess.Popen(command, stderr=sink, stdout=sink, start_new_session=True, **options)
        self.socket = Path(address.removeprefix("unix:"))
        self.channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.generation = GenerationStub(self.channel)
        self.worker = WorkerStub(self.channel)
        self._log = log
        self._patience_seconds = PATIENCE_SECONDS if "fake" in arguments else REAL_PATIENCE_SECONDS

    def log(self) -> str:
        """Everything that it wrote."""
        return self._log.read_text()

    def signal(self, number: int) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    async def status(self) -> int:
        """Waits for its exit status."""
        async with asyncio.timeout(self._patience_seconds):
            while (status := self.process.poll()) is None:
                await asyncio.sleep(0.01)
        return status

    async def ready(self) -> None:
        """Waits until it serves."""
        await self.reached(worker_pb2.WORKER_STATE_READY)

    async def reached(self, state: int) -> None:
        """Waits until it reports a state."""
        async with asyncio.timeout(self._patience_seconds):
            watch = self.worker.Watch(worker_pb2.WatchRequest(), wait_for_ready=True)
            while (report := await watch.read()) is not grpc.aio.EOF and report.state != state:
                pass
            watch.cancel()
        assert report is not grpc.aio.EOF, f"the worker ended instead:\n{self.log()[-2000:]}"

    async def health(self) -> list[int]:
        """Follows what health says until the worker has gone, and returns all of it."""
        said: list[int] = []
        replies = health_pb2_grpc.HealthStub(self.channel).Watch(health_pb2.HealthCheckRequest())
        with suppress(grpc.aio.AioRpcError):
            while (reply := await replies.read()) is not grpc.aio.EOF:
                said.append(reply.status)
        return said

    async def begin(self, max_tokens: int) -> Call:
        """Starts a generation of just so many tokens and waits for its first event."""
        sampling = generation_pb2.Sampling(max_tokens=max_tokens, ignore_eos=True)
        call = self.generation.Generate(generation_pb2.GenerateRequest(prompt="x", sampling=sampling))
        await call.read()
        return call

    async def end(self) -> None:
        """Kills what is left of it."""
        await self.channel.close()
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


async def rest_of(call: Call) -> list[generation_pb2.GenerateResponse]:
    """Reads what is left of a stream. A call that was read once cannot be iterated over."""
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    return events
