"""Workers on a real Ray cluster of three raylets: nodes come and go, and no request fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.faults.load import MODEL, Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.balancer.fleet.on_ray.conftest import RayCluster
    from tests.end_to_end.fleet_process import FleetProcess
    from vllama_protos.v1 import fleet_pb2

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SIMULATED = (MODEL, "--engine", "fake", "--max-model-len", "65536", "--engine-arg", "speed=4")
CLIENTS, REQUESTS = 8, 100


async def until(fleet: FleetProcess, wanted: Callable[[list[fleet_pb2.WorkerStatus]], bool]) -> None:
    """Waits until the balancer's view of its workers is as wanted."""
    async with asyncio.timeout(90):
        while not wanted(await asyncio.to_thread(fleet.workers)):
            await asyncio.sleep(0.1)


def available(count: int) -> Callable[[list[fleet_pb2.WorkerStatus]], bool]:
    """Makes a condition: exactly so many workers take requests."""
    return lambda workers: sum(worker.available for worker in workers) == count


async def test_a_killed_raylet_fails_no_request(
    cluster: RayCluster, balancer: Callable[..., FleetProcess], record_property: Callable[[str, object], None]
) -> None:
    """Three replicas; a raylet dies under 8 x 100 requests; its replica comes back on another node."""
    running = balancer(*SIMULATED, "--replicas", "3", ready=3)
    before = {worker.name: worker.address for worker in running.workers()}
    load = Load(running.target, clients=CLIENTS, requests=REQUESTS)

    async def kill() -> None:
        await load.reached(0.2)
        await asyncio.to_thread(cluster.kill, 0)

    outcome = await load.run(kill)
    assert outcome.clean, outcome
    assert outcome.complete == CLIENTS * REQUESTS
    await until(running, available(3))
    moved = [worker for worker in running.workers() if worker.address != before[worker.name]]
    assert moved
    assert all(worker.restarts >= 1 for worker in moved)
    print(
        f"{outcome.complete} of {CLIENTS * REQUESTS} requests whole, {sum(outcome.failed.values())} failed, "
        f"{outcome.truncated} truncated, {outcome.wrong} wrong, {outcome.migrated} moved; "
        f"{len(moved)} of 3 replicas came back elsewhere; first served by {dict(Counter(outcome.workers))}"
    )
