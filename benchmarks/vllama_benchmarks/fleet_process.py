"""A balancer with its workers as a child process, ready once all workers serve."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from vllama_benchmarks.server_process import free_ports, started
from vllama_clients.cli.failure import CommandFailed
from vllama_clients.cli.fleet_table import state
from vllama_clients.connection import Connection
from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc, worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

BALANCER = (sys.executable, "-m", "vllama_balancer")
RETRY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Fleet:
    """A serving fleet."""

    url: str
    """The HTTP edge."""
    grpc_target: str
    """The gRPC front."""
    pid: int
    """The balancer's process."""
    workers: Sequence[str]
    """The workers' own gRPC addresses."""


@asynccontextmanager
async def started_fleet(
    model: str,
    workers: int,
    flags: Sequence[str],
    timeout_seconds: float,
    say: Callable[[str], None],
    program: Sequence[str] = BALANCER,
) -> AsyncIterator[Fleet]:
    """Runs the balancer on free ports and ends it afterwards in every case.

    CommandFailed with the end of the fleet's own log when it does not start, or does not end well.
    """
    port, grpc_port = free_ports(2)
    ports = ("--port", str(port), "--grpc-port", str(grpc_port))
    target = f"127.0.0.1:{grpc_port}"
    addresses: list[str] = []
    async with started("The fleet", (*program, model, "--workers", str(workers), *ports, *flags)) as process:
        await process.until(_all_serve(target, workers, addresses, say), timeout_seconds)
        yield Fleet(f"http://127.0.0.1:{port}", target, process.pid, addresses)


async def _all_serve(target: str, workers: int, addresses: list[str], say: Callable[[str], None]) -> None:
    """Returns when every worker takes requests; CommandFailed as soon as one has failed for good."""
    printed: dict[str, str] = {}
    async with Connection(target).aio_channel() as channel:
        stub: fleet_pb2_grpc.FleetAsyncStub = fleet_pb2_grpc.FleetStub(channel)
        while True:
            try:
                async for fleet in stub.WatchFleet(fleet_pb2.WatchFleetRequest(), wait_for_ready=True):
                    _print_changes(fleet, printed, say)
                    if len(fleet.workers) >= workers and all(worker.available for worker in fleet.workers):
                        addresses.extend(worker.address for worker in fleet.workers)
                        return
            except grpc.RpcError:
                await asyncio.sleep(RETRY_SECONDS)


def _print_changes(fleet: fleet_pb2.ListWorkersResponse, printed: dict[str, str], say: Callable[[str], None]) -> None:
    for worker in fleet.workers:
        now = state(worker, progress=False)
        if printed.get(worker.name) != now:
            printed[worker.name] = now
            say(f"{worker.name}: {now}")
        if worker.report.state == worker_pb2.WORKER_STATE_FAILED and not worker.HasField("retry_in"):
            raise CommandFailed(f"{worker.name} cannot serve: {worker.report.failure or worker.reason}")
