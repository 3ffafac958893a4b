"""Plain gRPC clients without the balancer: gRPC's own C core weighs workers by their load reports.

Two worker processes, one of an eighth of the other's speed, are one target as a list of addresses: no
name is looked up, and nothing of ours is in the channel but its service config.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import IO, TYPE_CHECKING

import pytest

from tests.end_to_end.fleet_process import free_port
from vllama_clients import Client, Connection, GenerateRequest, Options, Sampling, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEEDS = {"fast": 1.0, "slow": 0.125}
USERS = 8
READY_SECONDS = 90
LEARNING_REQUESTS = 80
"""More than the workers answer in the second during which gRPC does not trust their reports."""
COUNTED_REQUESTS = 200


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The addresses of both workers, as one gRPC target."""
    log = (tmp_path_factory.mktemp("workers") / "log").open("wb")
    ports = [free_port() for _ in SPEEDS]
    workers = [_worker(name, speed, port, log) for (name, speed), port in zip(SPEEDS.items(), ports, strict=True)]
    try:
        yield "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    finally:
        for worker in workers:
            os.kill(worker.pid, signal.SIGTERM)
        for worker in workers:
            worker.wait(timeout=60)
        log.close()


def _worker(name: str, speed: float, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vllama_server", "simulated", "--engine", "fake", "--name", name]
    command += ["--listen", f"127.0.0.1:{port}", "--engine-arg", f"speed={speed}", "--drain-timeout", "1"]
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


async def workers_of(client: Client, number: int) -> Counter[str]:
    """Sends requests, USERS at a time, and counts the answers by worker."""
    answered: Counter[str] = Counter()
    left = iter(range(number))

    async def user() -> None:
        for index in left:
            request = GenerateRequest("simulated", f"Number {index}", Options(sampling=Sampling(max_tokens=10)))
            answered[(await client.generate(request).collect()).started.worker] += 1

    async with asyncio.TaskGroup() as users:
        for _ in range(USERS):
            users.create_task(user())
    return answered


async def ready(target: str) -> None:
    """Waits until every worker answers."""
    for address in target.removeprefix("ipv4:").split(","):
        async with Client(address) as client, asyncio.timeout(READY_SECONDS):
            while True:
                try:
                    await client.generate(GenerateRequest("simulated", "Ready?")).collect()
                    break
                except Unavailable:
                    await asyncio.sleep(0.1)


async def test_shares_follow_speeds(target: str) -> None:
    """The worker of an eighth of the speed gets well under a third of the requests, and yet some."""
    await ready(target)
    async with Client(Connection(target, load_balancing="weighted_round_robin"), timeout_seconds=60) as client:
        await workers_of(client, LEARNING_REQUESTS)
        counted = await workers_of(client, COUNTED_REQUESTS)
    # A speed of 1/8 means a share of 1/9; a busy machine adds the same to both latencies, so a third is the bound.
    assert COUNTED_REQUESTS // 40 <= counted["slow"] < COUNTED_REQUESTS / 3


async def test_without_weights_shares_are_equal(target: str) -> None:
    """The control: plain round robin gives both the same."""
    await ready(target)
    async with Client(Connection(target), timeout_seconds=60) as client:
        counted = await workers_of(client, LEARNING_REQUESTS)
    assert abs(counted["slow"] - counted["fast"]) <= LEARNING_REQUESTS // 10
