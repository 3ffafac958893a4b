"""Starts the product as a user does, as processes of its own, and waits until it is ready."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import psutil

from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def free_port() -> int:
    """Returns a port of the loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class FleetProcess:
    """One `vllama serve` with its workers."""

    arguments: Sequence[str]
    log: Path
    http_port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    module: Sequence[str] = ("vllama_balancer",)
    """The module that is run, with arguments before the usual ones."""
    metadata: Sequence[tuple[str, str]] = ()
    """What its calls send along, such as a key."""

    @property
    def url(self) -> str:
        """Where the HTTP edge listens."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def target(self) -> str:
        """Where the gRPC front listens."""
        return f"127.0.0.1:{self.grpc_port}"

    def start(self) -> None:
        """Starts the process in a group of its own; its output goes to the log."""
        command = [sys.executable, "-m", *self.module, *self.arguments]
        command += ["--port", str(self.http_port), "--grpc-port", str(self.grpc_port)]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    def workers(self) -> list[fleet_pb2.WorkerStatus]:
        """Asks the balancer for its workers."""
        with grpc.insecure_channel(self.target) as channel:
            listed = fleet_pb2_grpc.FleetStub(channel).ListWorkers(
                fleet_pb2.ListWorkersRequest(), timeout=5, wait_for_ready=True, metadata=self.metadata
            )
        return list(listed.workers)

    def wait_ready(self, count: int, seconds: float) -> None:
        """Waits until `count` workers take requests; fails with the log's end after `seconds`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process is None or self.process.poll() is not None:
                break
            try:
                if sum(worker.available for worker in self.workers()) >= count:
                    return
            except grpc.RpcError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"the fleet was not ready; its log ends:\n{self.tail()}")

    def tail(self) -> str:
        """Returns the log's last lines."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def family(self) -> list[psutil.Process]:
        """Lists the balancer and everything below it."""
        assert self.process is not None
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def stop(self, seconds: float = 60) -> int:
        """Ends it with SIGTERM and returns its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            for member in self.family():
                member.kill()
            self.process.wait(timeout=10)
            raise
