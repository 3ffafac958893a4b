"""Restarts of a worker on a cluster: after a crash, the loss of its node, and a request."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest

from tests.balancer.scripted_worker import eventually
from vllama_balancer.fleet.assignment import HostedModel, WorkerSpec
from vllama_balancer.fleet.events import Added, Changed, Deaths, ProcessState, Removed
from vllama_balancer.fleet.on_ray.messages import Retire, start_command
from vllama_balancer.fleet.on_ray.supervisor import ActorLost, ActorSupervisor, ActorSupervisors, Placed
from vllama_balancer.fleet.process import Exit
from vllama_balancer.fleet.restart_policy import RestartSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vllama_balancer.fleet.events import FleetEvent

SPEC = WorkerSpec(0, HostedModel("m", ("m:latest",)), engine="fake")
SETTINGS = RestartSettings(initial_delay_seconds=0.01, max_delay_seconds=0.02, max_crashed_starts=3)


class ScriptedSlot:
    """An ActorSlot that a test controls."""

    needs = "a node with 1 free GPU"

    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.ends: asyncio.Queue[Exit | ActorLost] = asyncio.Queue()
        self.refusals: list[Exception] = []
        self.starts = 0
        self.stopped_after: list[float] = []
        self.has_left = False

    async def start(self, spec: WorkerSpec) -> Placed:
        """Starts when there is room."""
        await self.room.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        self.starts += 1
        return Placed(f"10.0.0.1:{self.starts}", "node")

    async def ended(self) -> Exit:
        """Ends as the test queued it."""
        end = await self.ends.get()
        if isinstance(end, ActorLost):
            raise end
        return end

    async def stop(self, timeout_seconds: float) -> None:
        self.stopped_after.append(timeout_seconds)
        self.ends.put_nowait(Exit(0, "drained", was_ready=True))

    async def leave(self) -> None:
        self.has_left = True


class Running:
    """A supervisor that runs, and its events."""

    def __init__(self) -> None:
        self.slot = ScriptedSlot()
        self.events: asyncio.Queue[FleetEvent] = asyncio.Queue()
        self.supervisor = ActorSupervisor(SPEC, lambda: self.slot, SETTINGS, self.events.put_nowait)
        self.task = asyncio.create_task(self.supervisor.run())

    async def next_event(self, kind: type[FleetEvent], state: ProcessState | None = None) -> FleetEvent:
        """Reads events until one is of a kind."""
        async with asyncio.timeout(10):
            while True:
                event = await self.events.get()
                if isinstance(event, kind) and (state is None or getattr(event, "state", None) is state):
                    return event

    async def placed(self) -> Added:
        """Reads events until one has an address."""
        while not (event := await self.next_event(Added)).address:
            pass
        return event


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """A supervisor, ended at the end."""
    made = Running()
    yield made
    made.supervisor.kill()
    await made.task


async def test_a_worker_without_room_is_announced_and_waits(running: Running) -> None:
    """It is announced without an address and with the resources it waits for, and gets an address later."""
    assert await running.next_event(Added) == Added("worker-0", "", ("m:latest",), is_supervised=True)
    news = await running.next_event(Changed, ProcessState.PLACING)
    assert "a node with 1 free GPU" in news.reason
    running.slot.room.set()
    assert await running.placed() == Added("worker-0", "10.0.0.1:1", ("m:latest",), is_supervised=True)


async def test_a_worker_that_crashes_is_started_again_in_its_slot(running: Running) -> None:
    """A crash is reported with its cause and a pause; the new process has a new address and one restart."""
    running.slot.room.set()
    await running.placed()
    running.slot.ends.put_nowait(Exit(-9, "it was killed by SIGKILL"))
    news = await running.next_event(Changed, ProcessState.RESTARTING)
    assert (news.reason, news.restarts) == ("it was killed by SIGKILL", 1)
    assert await running.placed() == Added(
        "worker-0", "10.0.0.1:2", ("m:latest",), restarts=1, is_supervised=True,
        deaths=Deaths(1, "it was killed by SIGKILL"),
    )  # fmt: skip


async def test_a_lost_node_is_not_the_workers_fault(running: Running) -> None:
    """However often nodes are lost, the worker is placed again and never given up."""
    running.slot.room.set()
    for loss in range(1, 6):
        await running.placed()
        running.slot.ends.put_nowait(ActorLost("the node died"))
        assert (await running.next_event(Changed, ProcessState.PLACING)).restarts == loss
    assert (await running.placed()).restarts == 5


async def test_waiting_for_room_counts_no_restarts(running: Running) -> None:
    """However often the cluster fails a call of an unplaced worker, its node was lost once."""
    running.slot.room.set()
    await running.placed()
    running.slot.refusals = [ActorLost("the actor is unavailable")] * 3
    running.slot.ends.put_nowait(ActorLost("the node died"))
    await running.next_event(Changed, ProcessState.PLACING)
    assert await running.next_event(Added) == Added(
        "worker-0", "10.0.0.1:2", ("m:latest",), restarts=1, is_supervised=True
    )


async def test_a_worker_that_keeps_crashing_is_given_up_with_its_cause(running: Running) -> None:
    """A crash loop ends as FAILED; a requested restart begins anew."""
    running.slot.room.set()
    for _ in range(3):
        await running.placed()
        running.slot.ends.put_nowait(Exit(3, "the engine died"))
    news = await running.next_event(Changed, ProcessState.FAILED)
    assert "died 3 times before it was ready" in news.reason and "the engine died" in news.reason
    await running.supervisor.restart(0.0)
    assert (await running.placed()).address == "10.0.0.1:4"


async def test_a_worker_that_has_been_ready_is_never_given_up(running: Running) -> None:
    """However often it dies afterwards."""
    running.slot.room.set()
    for count in range(1, 8):
        assert (await running.placed()).restarts == count - 1
        running.slot.ends.put_nowait(Exit(3, "the engine died", was_ready=True))
        news = await running.next_event(Changed, ProcessState.RESTARTING)
        assert news.deaths == Deaths(count, "the engine died")


async def test_a_node_without_descriptors_is_waited_for(running: Running) -> None:
    """A process that cannot be made for a passing lack of something is no failed start."""
    running.slot.refusals = [OSError(errno.EMFILE, "Too many open files")] * 6
    running.slot.room.set()
    assert (await running.placed()).address == "10.0.0.1:1"


async def test_a_process_that_cannot_be_started_is_given_up(running: Running) -> None:
    """An OSError on the node counts as a failed start."""
    running.slot.refusals = [OSError("no such file")] * 3
    running.slot.room.set()
    assert "no such file" in (await running.next_event(Changed, ProcessState.FAILED)).reason


async def test_a_restart_drains_and_does_not_wait(running: Running) -> None:
    """The process is drained; the next one starts without a pause."""
    running.slot.room.set()
    await running.placed()
    await running.supervisor.restart(7.0)
    assert running.slot.stopped_after == [12.0]
    assert (await running.next_event(Changed, ProcessState.RESTARTING)).reason == "is being restarted"
    assert (await running.placed()).address == "10.0.0.1:2"


async def test_stopping_drains_and_releases_the_slot(running: Running) -> None:
    """A stopped worker is drained, removed, and holds no GPU any more."""
    running.slot.room.set()
    await running.placed()
    await running.supervisor.stop(1.0)
    await running.next_event(Removed)
    await running.task
    assert running.slot.stopped_after == [6.0] and running.slot.has_left


async def test_a_worker_that_still_waits_for_room_leaves_at_once(running: Running) -> None:
    """Stopping an unplaced worker takes no time and releases its slot."""
    await running.next_event(Changed, ProcessState.PLACING)
    await running.supervisor.stop(30.0)
    async with asyncio.timeout(5):
        await running.task
    assert running.slot.has_left and running.slot.stopped_after == []


async def test_an_unforeseen_exception_of_the_slot_is_no_end(running: Running) -> None:
    """It is logged, and the worker is tried again after a pause."""
    running.slot.refusals = [RuntimeError("the cluster is confused")] * 5
    running.slot.room.set()
    assert "the cluster is confused" in (await running.next_event(Changed, ProcessState.RESTARTING)).reason
    assert (await running.placed()).address == "10.0.0.1:1"


@pytest.fixture
async def supervisors() -> AsyncIterator[tuple[ActorSupervisors, list[ScriptedSlot], list[FleetEvent]]]:
    """The supervisors of a driver, their slots and their events; ended at the end."""
    slots: list[ScriptedSlot] = []
    events: list[FleetEvent] = []

    def make_slot() -> ScriptedSlot:
        slots.append(ScriptedSlot())
        return slots[-1]

    made = ActorSupervisors(make_slot, SETTINGS, events.append)
    yield made, slots, events
    await made.abort()


async def test_a_worker_that_is_started_twice_has_one_slot(supervisors) -> None:
    """A second one would hold its GPUs for ever."""
    made, slots, _ = supervisors
    for _ in range(2):
        made.execute(start_command(SPEC, fail_fast=False))
    await asyncio.sleep(0)
    assert len(slots) == 1


async def test_a_name_may_be_used_again(supervisors) -> None:
    """Once its worker has been removed."""
    made, slots, events = supervisors
    for count in (1, 2):
        made.execute(start_command(SPEC, fail_fast=False))
        await eventually(lambda count=count: len(slots) == count)
        made.execute(Retire("worker-0", 0.0))
        await eventually(lambda count=count: sum(isinstance(event, Removed) for event in events) == count)
    assert all(slot.has_left for slot in slots)


async def test_a_worker_that_never_was_is_removed(supervisors) -> None:
    """The balancer waits for the answer."""
    made, _, events = supervisors
    made.execute(Retire("worker-7", 0.0))
    assert events == [Removed("worker-7", "was not running")]
