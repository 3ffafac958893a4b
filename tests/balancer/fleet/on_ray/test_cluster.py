"""Workers on a real Ray cluster of three raylets: nodes come and go, and no request fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.faults.load import MODEL, Load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.balancer.fleet.on_ray.conftest import RayCluster
    from tests.end_to_end.fleet_process import FleetProcess
    from tests.faults.load import Outcome
    from vllama_protos.v1 import fleet_pb2

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SIMULATED = (MODEL, "--engine", "fake", "--max-model-len", "65536", "--engine-arg", "speed=4")
CLIENTS, REQUESTS = 8, 100


async def until(fleet: FleetProcess, wanted: Callable[[list[fleet_pb2.WorkerStatus]], bool]) -> None:
    """Waits until the balancer's list of workers matches."""
    async with asyncio.timeout(90):
        while not wanted(await asyncio.to_thread(fleet.workers)):
            await asyncio.sleep(0.1)


def available(count: int) -> Callable[[list[fleet_pb2.WorkerStatus]], bool]:
    """Makes a condition: exactly so many workers take requests."""
    return lambda workers: sum(worker.available for worker in workers) == count


def summary(outcome: Outcome) -> str:
    """Returns the outcome of a load in one sentence."""
    return (
        f"{outcome.complete} of {CLIENTS * REQUESTS} requests whole, {sum(outcome.failed.values())} failed, "
        f"{outcome.truncated} truncated, {outcome.wrong} wrong, {outcome.migrated} moved in {outcome.seconds:.1f} s"
    )


async def test_a_killed_raylet_fails_no_request(cluster: RayCluster, balancer: Callable[..., FleetProcess]) -> None:
    """A raylet is killed under 8 x 100 requests; its replica restarts on another node."""
    running = balancer(*SIMULATED, "--replicas", "3", ready=3)
    before = {worker.name: worker.address for worker in running.workers()}
    load = Load(running.target, clients=CLIENTS, requests=REQUESTS)

    async def kill() -> None:
        await load.reached(0.2)
        await asyncio.to_thread(cluster.kill, 0)

    outcome = await load.run(kill)
    assert outcome.clean, outcome
    assert outcome.complete == CLIENTS * REQUESTS
    await until(running, lambda workers: available(3)(workers) and any(worker.restarts for worker in workers))
    moved = [worker for worker in running.workers() if worker.address != before[worker.name]]
    print(f"{summary(outcome)}; {len(moved)} of 3 replicas came back elsewhere; began on {dict(outcome.workers)}")
    assert moved
    assert all(worker.restarts >= 1 for worker in moved)
    await asyncio.to_thread(cluster.add)


async def test_a_node_leaves_and_another_joins(cluster: RayCluster, balancer: Callable[..., FleetProcess]) -> None:
    """`ray stop` of a node under load: its replicas wait for room, and get it on the node that joins."""
    running = balancer(*SIMULATED, "--replicas", "6", ready=6)
    load = Load(running.target, clients=CLIENTS, requests=REQUESTS)

    async def leave_and_join() -> None:
        await load.reached(0.2)
        await asyncio.to_thread(cluster.stop, 1)
        await until(running, available(4))
        waiting = [worker.reason for worker in running.workers() if not worker.available]
        assert len(waiting) == 2
        await until(running, lambda workers: sum("waits for a node" in worker.reason for worker in workers) == 2)
        await asyncio.to_thread(cluster.add)

    outcome = await load.run(leave_and_join)
    print(summary(outcome))
    assert outcome.clean, outcome
    await until(running, available(6))


async def test_a_worker_with_two_gpus_has_a_placement_group(
    cluster: RayCluster, balancer: Callable[..., FleetProcess]
) -> None:
    """Four replicas of two GPUs each: three fit the six GPUs, and the fourth shows what it waits for."""
    running = balancer(*SIMULATED, "--replicas", "4", "--tensor-parallel", "2", ready=3)
    waiting = [worker.reason for worker in running.workers() if not worker.available]
    assert len(waiting) == 1 and "waits for 2 free GPUs" in waiting[0]
    assert (await Load(running.target, requests=5).run()).clean


@pytest.mark.faults
async def test_a_killed_actor_is_restarted(cluster: RayCluster, balancer: Callable[..., FleetProcess]) -> None:
    """The actor's process is killed under load, and its worker with it; Ray restarts it, and no request fails."""
    running = balancer(*SIMULATED, "--replicas", "2", ready=2)
    load = Load(running.target, clients=CLIENTS, requests=REQUESTS)

    async def kill() -> None:
        await load.reached(0.2)
        cluster.actors()[0].kill()

    outcome = await load.run(kill)
    print(summary(outcome))
    assert outcome.clean, outcome
    await until(running, lambda workers: available(2)(workers) and any(worker.restarts for worker in workers))


async def test_models_are_unloaded_and_loaded_on_demand(
    cluster: RayCluster, balancer: Callable[..., FleetProcess], tmp_path: Path
) -> None:
    """An unloaded model holds no actor; the next request for it starts one."""
    running = balancer("--engine", "fake", "--replicas", "1", "--models", str(tmp_path / "store"), ready=1)
    ask = {"model": "smollm2:135m", "prompt": "hello", "stream": False}
    async with aiohttp.ClientSession(running.url) as session:
        async with session.post("/api/generate", json={"model": "smollm2:135m", "keep_alive": 0}) as reply:
            assert reply.status == 200
        await until(running, lambda workers: not workers)
        async with asyncio.timeout(60):
            while cluster.actors():
                await asyncio.sleep(0.1)
        async with session.post("/api/generate", json=ask) as reply:
            answer = await reply.json()
    assert reply.status == 200 and answer["done"], answer
    assert len(running.workers()) == 1


@pytest.mark.faults
@pytest.mark.real
async def test_real_vllm_on_a_cluster(cluster: RayCluster, balancer: Callable[..., FleetProcess]) -> None:
    """One real engine on a node's processor answers a chat."""
    running = balancer(
        "smollm2:135m", "--device", "cpu", "--replicas", "1", "--max-model-len", "1024", ready=1, seconds=240
    )
    question = {"role": "user", "content": "Name three colours."}
    body = {"model": "smollm2:135m", "messages": [question], "stream": False, "options": {"num_predict": 16}}
    async with aiohttp.ClientSession() as session, session.post(f"{running.url}/api/chat", json=body) as reply:
        answer = await reply.json()
    assert reply.status == 200, answer
    assert answer["message"]["content"].strip()
    assert answer["eval_count"] > 0
