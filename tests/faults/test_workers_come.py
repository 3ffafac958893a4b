"""Workers that join while others serve, and workers without reports: the load is spread evenly."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.fleet_process import FleetProcess
from tests.faults.load import Load
from tests.faults.standalone import Between, StandaloneWorkers, worker_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.conftest import Matrix

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

NAMES = ("w0", "w1", "w2", "w3")


@pytest.fixture
def workers() -> Iterator[StandaloneWorkers]:
    """No worker yet; those that a test starts are ended."""
    # Paths of sockets may have 107 characters, and a test's own directory can have more.
    with tempfile.TemporaryDirectory(prefix="vllama-faults-") as directory:
        made = StandaloneWorkers(Path(directory))
        yield made
        made.stop()


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[Callable[[list[str], int], FleetProcess]]:
    """Starts a balancer for workers at addresses, and waits until so many of them serve."""
    started: list[FleetProcess] = []

    def start(addresses: list[str], ready: int) -> FleetProcess:
        process = FleetProcess(worker_flags(addresses), tmp_path / "balancer.log")
        started.append(process)
        process.start()
        process.wait_ready(ready, 60)
        return process

    yield start
    for process in started:
        process.stop()


async def test_reports_stop(
    workers: StandaloneWorkers, balancer: Callable[[list[str], int], FleetProcess], matrix: Matrix
) -> None:
    """16: a worker's last report says that it is idle, for ever: that does not draw the herd there."""
    for name in NAMES:
        workers.start(name)
    async with Between(workers.address("silent"), workers.address("w0")) as between:
        running = await asyncio.to_thread(balancer, [workers.address(name) for name in ("silent", *NAMES[1:])], 4)
        between.hold_reports()
        load = Load(running.target)
        outcome = await load.run()
        statuses = await asyncio.to_thread(running.workers)
        held = between.held_reports
    silent, others = outcome.workers["w0"], [outcome.workers[name] for name in NAMES[1:]]
    matrix.add("16 reports of one worker stop", outcome, f"silent one {silent}, others {others}")
    assert held
    assert outcome.clean, outcome
    assert all(worker.available for worker in statuses)
    # An even share of 800 is 200; the middle man makes this worker a little slower than the others.
    assert 50 <= silent <= 300


async def test_worker_joins_under_load(
    workers: StandaloneWorkers, balancer: Callable[[list[str], int], FleetProcess], matrix: Matrix
) -> None:
    """17: the fourth worker comes when a fifth of the work is done, and takes its part of the rest."""
    for name in NAMES[:3]:
        workers.start(name)
    running = await asyncio.to_thread(balancer, [workers.address(name) for name in NAMES], 3)
    load = Load(running.target)

    async def join() -> None:
        await load.reached(0.2)
        workers.start("w3")

    outcome = await load.run(join)
    joined, others = outcome.workers["w3"], [outcome.workers[name] for name in NAMES[:3]]
    matrix.add("17 a worker joins under load", outcome, f"new one {joined}, others {others}")
    assert outcome.clean, outcome
    # A quarter of the last four fifths would be 160; it takes a second or two to start.
    assert 0 < joined < 320
