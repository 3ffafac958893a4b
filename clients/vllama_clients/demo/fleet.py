"""Starts a fleet of its own for the demo, waits until all its workers serve, and ends it."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import grpc

from vllama_clients.cli.failure import CommandFailed
from vllama_clients.connection import Connection
from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc, worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

BALANCER = (sys.executable, "-m", "vllama_balancer")
STOP_TIMEOUT_SECONDS = 60.0
RETRY_SECONDS = 0.2
LOG_TAIL_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class FleetAddress:
    """Where a fleet's two front doors are."""

    url: str
    """The HTTP edge."""
    grpc_target: str
    """The gRPC front."""


@asynccontextmanager
async def started_fleet(
    model: str,
    workers: int,
    flags: Sequence[str],
    timeout_seconds: float,
    say: Callable[[str], None],
    program: Sequence[str] = BALANCER,
) -> AsyncIterator[FleetAddress]:
    """Runs the balancer on free ports and ends it afterwards, whatever happens.

    CommandFailed with the end of the fleet's own log when it does not start, or does not end well.
    """
    port, grpc_port = _free_ports(2)
    ports = ["--port", str(port), "--grpc-port", str(grpc_port)]
    address = FleetAddress(f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_port}")
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *(*program, model, "--workers", str(workers), *ports, *flags),
            stdout=log,
            stderr=log,
        )
        try:
            await _ready(process, address.grpc_target, workers, timeout_seconds, say, log)
            yield address
        finally:
            await _end(process, log)


async def _ready(
    process: asyncio.subprocess.Process,
    target: str,
    workers: int,
    timeout_seconds: float,
    say: Callable[[str], None],
    log: IO[bytes],
) -> None:
    ended = asyncio.create_task(process.wait())
    serving = asyncio.create_task(_all_serve(target, workers, say))
    try:
        await asyncio.wait((ended, serving), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        elif ended.done():
            raise CommandFailed(f"The fleet ended with status {ended.result()} while it started:\n{_tail(log)}")
        else:
            raise CommandFailed(f"The fleet was not ready within {timeout_seconds:g} s:\n{_tail(log)}")
    finally:
        for task in (ended, serving):
            task.cancel()
        await asyncio.gather(ended, serving, return_exceptions=True)


async def _all_serve(target: str, workers: int, say: Callable[[str], None]) -> None:
    """Returns when every worker takes requests; CommandFailed as soon as one has failed for good."""
    told: dict[str, str] = {}
    async with Connection(target).aio_channel() as channel:
        stub: fleet_pb2_grpc.FleetAsyncStub = fleet_pb2_grpc.FleetStub(channel)
        while True:
            try:
                async for fleet in stub.WatchFleet(fleet_pb2.WatchFleetRequest(), wait_for_ready=True):
                    _tell(fleet, told, say)
                    if len(fleet.workers) >= workers and all(worker.available for worker in fleet.workers):
                        return
            except grpc.RpcError:
                await asyncio.sleep(RETRY_SECONDS)


def _tell(fleet: fleet_pb2.ListWorkersResponse, told: dict[str, str], say: Callable[[str], None]) -> None:
    for worker in fleet.workers:
        state = "ready" if worker.available else _phase(worker.report)
        if told.get(worker.name) != state:
            told[worker.name] = state
            say(f"{worker.name}: {state}")
        if worker.report.state == worker_pb2.WORKER_STATE_FAILED and not worker.HasField("retry_in"):
            raise CommandFailed(f"{worker.name} cannot serve: {worker.report.failure or worker.reason}")


def _phase(report: worker_pb2.WorkerReport) -> str:
    if report.state == worker_pb2.WORKER_STATE_FAILED:
        return "failed"
    if report.phase == worker_pb2.START_PHASE_UNSPECIFIED:
        return "starting"
    return worker_pb2.StartPhase.Name(report.phase).removeprefix("START_PHASE_").replace("_", " ").lower()


async def _end(process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
            status = await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise CommandFailed(f"The fleet did not end within {STOP_TIMEOUT_SECONDS:g} s and was killed.") from None
    if status != 0:
        raise CommandFailed(f"The fleet ended with status {status}:\n{_tail(log)}")


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace").strip()[-LOG_TAIL_CHARACTERS:]


def _free_ports(count: int) -> list[int]:
    """Finds ports that were free a moment ago; all are held until all are found, so they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
