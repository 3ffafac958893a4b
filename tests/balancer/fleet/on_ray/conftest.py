"""A Ray cluster of three nodes with two declared GPUs each, and balancers on it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.end_to_end.fleet_process import FleetProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NODES = 3
GPUS_OF_A_NODE = 2


class RayCluster:
    """A cluster whose nodes a test adds and removes."""

    def __init__(self, nodes: int, gpus: int, log: Path) -> None:
        script = Path(__file__).with_name("cluster_process.py")
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, script, str(nodes), str(gpus)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True,
            )  # fmt: skip
        self.nodes = nodes
        """Nodes that were ever added; their numbers are never reused."""
        self.address = self._line()
        assert self.address, log.read_text()[-4000:]

    def kill(self, node: int) -> None:
        """Kills a node's raylet by SIGKILL, and with it its actors."""
        self._send(f"kill {node}")

    def stop(self, node: int) -> None:
        """Ends a node as `ray stop` does."""
        self._send(f"stop {node}")

    def add(self) -> None:
        """Adds a node."""
        self._send("add")
        self.nodes += 1

    def actors(self) -> list[psutil.Process]:
        """Lists the processes of the actors that host workers."""
        below = psutil.Process(self._process.pid).children(recursive=True)
        return [process for process in below if _title(process).startswith("ray::HostActor")]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        assert self._line() == "done"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def _title(process: psutil.Process) -> str:
    """The command line of a process; Ray sets it to the name of the actor."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Three nodes, which every test leaves as many as it found; ends them all."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed (the extra `ray`)")
    made = RayCluster(NODES, GPUS_OF_A_NODE, tmp_path_factory.mktemp("ray") / "cluster.log")
    yield made
    made.close()


@pytest.fixture
def balancer(cluster: RayCluster, tmp_path: Path) -> Iterator[Callable[..., FleetProcess]]:
    """Starts balancers with simulated workers on the cluster; ends them all."""
    started: list[FleetProcess] = []

    def start(*arguments: str, ready: int, seconds: float = 90) -> FleetProcess:
        usual = ["--fleet", "ray", "--ray-address", cluster.address, "--drain-timeout", "5s"]
        process = FleetProcess([*arguments, *usual], tmp_path / f"balancer{len(started)}.log")
        started.append(process)
        process.start()
        process.wait_ready(ready, seconds)
        return process

    yield start
    for process in started:
        process.stop()
