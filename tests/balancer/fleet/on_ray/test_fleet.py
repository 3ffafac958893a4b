"""The fleet on Ray as the balancer sees it, over drivers that a test scripts."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

from tests.balancer.fleet.conftest import ListSink
from vllama_balancer.errors import NoWorker
from vllama_balancer.fleet.assignment import HostedModel, WorkerSpec
from vllama_balancer.fleet.events import Added, Changed, ProcessState, Removed
from vllama_balancer.fleet.on_ray.fleet import RayFleet, launcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from vllama_balancer.fleet.events import FleetEvent

# Places each worker at once; ends when it has to restart "worker-9".
WORKING = """
import json, os, sys
def emit(kind, **body):
    print(json.dumps([kind, body]), flush=True)
emit("Connected", cluster="here")
known = set()
for line in sys.stdin:
    kind, body = json.loads(line)
    if kind == "Start":
        name = "worker-" + str(body["spec"]["index"])
        known.add(name)
        emit("Added", name=name, address="10.0.0.1:" + str(os.getpid()))
    elif kind == "Restart":
        if body["name"] == "worker-9":
            sys.exit("vllama: the cluster has gone")
        emit("Added", name=body["name"], address="10.0.0.1:1", restarts=1)
    elif kind == "Retire":
        known.discard(body["name"])
        emit("Removed", name=body["name"], reason="was stopped")
    elif kind == "Close":
        for name in known:
            emit("Removed", name=name, reason="was stopped")
        break
"""
# Reaches the cluster when the file of the first argument exists, and prints the commands that it gets.
CONNECTING = """
import json, os, sys, time
print("looks for its cluster", file=sys.stderr, flush=True)
while not os.path.exists({path!r}): time.sleep(0.01)
print(json.dumps(["Connected", {{"cluster": "here"}}]), flush=True)
for line in sys.stdin:
    kind, body = json.loads(line)
    print(kind, body.get("name") or body.get("spec", {{}}).get("index"), file=sys.stderr, flush=True)
    if kind == "Close":
        break
"""
UNREACHABLE = "import sys; sys.exit('vllama: no cluster answers at 10.0.0.1:6379')"


@pytest.fixture
async def make_fleet(tmp_path: Path) -> AsyncIterator[Callable[[str], RayFleet]]:
    """Makes fleets whose driver is a Python script; closes them."""
    made: list[RayFleet] = []

    def make(script: str, sink: ListSink | None = None) -> RayFleet:
        launch = launcher([sys.executable, "-S", "-u", "-c", script], {}, sink or ListSink())
        made.append(RayFleet(launch, drain_seconds=1.0))
        return made[-1]

    yield make
    for fleet in made:
        await fleet.close(0.0)


def spec(index: int) -> WorkerSpec:
    """A simulated worker."""
    return WorkerSpec(index, HostedModel("m", ("m:latest",)), engine="fake")


async def until(events: AsyncIterator[FleetEvent], wanted: Callable[[FleetEvent], bool]) -> FleetEvent:
    """Reads events until one matches."""
    async with asyncio.timeout(20):
        async for event in events:
            if wanted(event):
                return event
    raise AssertionError("the events ended")


async def test_workers_are_placed_and_retired(make_fleet: Callable[[str], RayFleet]) -> None:
    """An added worker is announced with its address; a retired one is gone when `retire` returns."""
    fleet = make_fleet(WORKING)
    fleet.add(spec(0))
    events = fleet.events()
    added = await until(events, lambda event: isinstance(event, Added))
    assert added.name == "worker-0" and fleet.owns("worker-0")
    fleet.add(spec(1))
    assert (await until(events, lambda event: isinstance(event, Added))).name == "worker-1"
    async with asyncio.timeout(20):
        await fleet.retire("worker-0")
    assert (await until(events, lambda event: isinstance(event, Removed))).name == "worker-0"
    assert fleet.owns("worker-1") and not fleet.owns("worker-0")


async def test_a_restart_returns_when_the_new_process_runs(make_fleet: Callable[[str], RayFleet]) -> None:
    """The new process is announced with its own address."""
    fleet = make_fleet(WORKING)
    fleet.add(spec(0))
    events = fleet.events()
    await until(events, lambda event: isinstance(event, Added))
    async with asyncio.timeout(20):
        await fleet.restart("worker-0")
    assert (await until(events, lambda event: isinstance(event, Added))).restarts == 1


async def test_a_lost_driver_is_replaced_and_gets_the_same_workers(make_fleet: Callable[[str], RayFleet]) -> None:
    """The workers are shown as restarting, and another driver starts the same ones."""
    fleet = make_fleet(WORKING)
    fleet.add(spec(0))
    fleet.add(spec(9))
    events = fleet.events()
    first = await until(events, lambda event: isinstance(event, Added) and event.name == "worker-0")
    doomed = asyncio.create_task(fleet.restart("worker-9"))
    news = await until(events, lambda event: isinstance(event, Changed))
    assert news.state is ProcessState.RESTARTING and "the cluster has gone" in news.reason
    again = await until(events, lambda event: isinstance(event, Added) and event.name == "worker-0")
    assert again.address != first.address
    async with asyncio.timeout(20):
        await doomed


async def test_a_cluster_that_was_never_there_is_an_error(make_fleet: Callable[[str], RayFleet]) -> None:
    """Reading the events raises the cause."""
    fleet = make_fleet(UNREACHABLE)
    fleet.add(spec(0))
    with pytest.raises(NoWorker, match="no cluster answers at"):
        async with asyncio.timeout(20):
            await anext(fleet.events())


async def test_closing_ends_the_driver(make_fleet: Callable[[str], RayFleet]) -> None:
    """Closing makes the driver end all workers, and waits for that."""
    fleet = make_fleet(WORKING)
    fleet.add(spec(0))
    events = fleet.events()
    await until(events, lambda event: isinstance(event, Added))
    async with asyncio.timeout(20):
        await fleet.close(0.0)
    assert (await until(events, lambda event: isinstance(event, Removed))).name == "worker-0"


async def test_closing_does_not_wait_for_a_driver_that_still_looks_for_its_cluster(
    make_fleet: Callable[[str], RayFleet],
) -> None:
    """It has started no worker, so there is none to drain."""
    fleet = make_fleet("import time; time.sleep(600)")
    fleet.add(spec(0))
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await fleet.close(300.0)


async def test_a_name_is_used_once(make_fleet: Callable[[str], RayFleet]) -> None:
    """Adding a worker twice is an error of the caller."""
    fleet = make_fleet(WORKING)
    fleet.add(spec(0))
    with pytest.raises(ValueError, match="runs already"):
        fleet.add(spec(0))


async def test_commands_before_the_driver_is_connected_are_given_once(
    make_fleet: Callable[..., RayFleet], tmp_path: Path
) -> None:
    """A worker that is added meanwhile is started once, and one that is retired not at all."""
    sink, cluster = ListSink(), tmp_path / "cluster"
    fleet = make_fleet(CONNECTING.format(path=str(cluster)), sink)
    fleet.add(spec(0))
    await sink.printed("looks for its cluster")
    fleet.add(spec(1))
    fleet.add(spec(2))
    async with asyncio.timeout(20):
        await fleet.retire("worker-2")
    assert (await until(fleet.events(), lambda event: isinstance(event, Removed))).name == "worker-2"
    cluster.touch()
    await sink.printed("Start 1")
    async with asyncio.timeout(20):
        await fleet.close(0.0)
    assert [line for _, line in sink.lines[1:]] == ["Start 0", "Start 1", "Close None"]


async def test_an_exception_does_not_end_the_supervision_of_the_driver(make_fleet: Callable[..., RayFleet]) -> None:
    """A driver that cannot be read is replaced."""
    too_long = "print('x' * (2 << 20), flush=True)"
    fleet = make_fleet(WORKING.replace('elif kind == "Restart":', f'elif kind == "Restart":\n        {too_long}'))
    fleet.add(spec(0))
    events = fleet.events()
    first = await until(events, lambda event: isinstance(event, Added))
    restarting = asyncio.create_task(fleet.restart("worker-0"))
    news = await until(events, lambda event: isinstance(event, Changed))
    assert news.state is ProcessState.RESTARTING
    again = await until(events, lambda event: isinstance(event, Added))
    assert again.address != first.address
    await restarting
