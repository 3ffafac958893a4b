"""Workers and a balancer as child processes, with their CPU time and memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import psutil

from vllama_benchmarks.server_process import free_ports
from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODEL = "demo:1b"
START_TIMEOUT_SECONDS = 180.0
STOP_TIMEOUT_SECONDS = 20.0
NO_PACE = ("step_seconds=0", "step_seconds_per_stream=0", "prefill_tokens_per_second=0")
"""An engine whose steps take no time: it is as fast as its readers."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """A balancer and its workers."""

    http_port: int
    """The balancer's HTTP edge, on the loopback."""
    grpc_address: str
    """The balancer's gRPC front."""
    workers: tuple[str, ...]
    """The workers' own gRPC addresses."""
    balancer_pid: int
    """The balancer's process."""
    worker_pids: tuple[int, ...]
    """The workers' processes."""

    def cpu_seconds(self) -> tuple[float, float]:
        """Processor time used so far by the balancer, and by all workers together."""
        return _cpu_seconds(self.balancer_pid), sum(map(_cpu_seconds, self.worker_pids))

    def resident_bytes(self) -> int:
        """Memory of the balancer."""
        return int(psutil.Process(self.balancer_pid).memory_info().rss)


@contextmanager
def fleet(workers: int, engine_arguments: Sequence[str], *flags: str) -> Iterator[Fleet]:
    """Starts workers and a balancer, waits until all of them serve, and ends them in every case."""
    with ExitStack() as ending:
        directory = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="relay-")))
        addresses = tuple(f"unix:{directory}/worker-{index}.sock" for index in range(workers))
        arguments = [part for argument in engine_arguments for part in ("--engine-arg", argument)]
        started = [
            _start(ending, directory / f"worker-{index}.log", "vllama_server", MODEL, "--engine", "fake",
                   "--listen", address, "--name", f"worker-{index}", *arguments)
            for index, address in enumerate(addresses)
        ]  # fmt: skip
        http_port, grpc_port = free_ports(2)
        targets = [part for address in addresses for part in ("--worker", address)]
        ports = ("--port", str(http_port), "--grpc-port", str(grpc_port))
        balancer = _start(ending, directory / "balancer.log", "vllama_balancer", *ports, *targets, *flags)
        grpc_address = f"127.0.0.1:{grpc_port}"
        _await_ready(grpc_address, workers, balancer, directory)
        yield Fleet(http_port, grpc_address, addresses, balancer.pid, tuple(process.pid for process in started))


def _start(ending: ExitStack, log: Path, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    output = ending.enter_context(log.open("wb"))
    process = subprocess.Popen((sys.executable, "-m", module, *arguments), stdout=output, stderr=output)
    ending.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await_ready(address: str, workers: int, balancer: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    with grpc.insecure_channel(address) as channel:
        stub = fleet_pb2_grpc.FleetStub(channel)
        while time.monotonic() < deadline and balancer.poll() is None:
            try:
                listed = stub.ListWorkers(fleet_pb2.ListWorkersRequest(), wait_for_ready=True, timeout=1.0).workers
            except grpc.RpcError:
                continue
            if sum(worker.available for worker in listed) == workers:
                return
            time.sleep(0.1)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(directory.glob("*.log")))
    raise SystemExit(f"the fleet did not become ready:\n{logs}")


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
