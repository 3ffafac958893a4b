"""What follows the ends of a worker on a cluster: its own, its node's, and those that are asked for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.fleet.assignment import HostedModel, WorkerSpec
from vllama_balancer.fleet.events import Added, Changed, ProcessState, Removed
from vllama_balancer.fleet.on_ray.supervisor import ActorLost, ActorSupervisor, Placed
from vllama_balancer.fleet.restart_policy import RestartSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vllama_balancer.fleet.events import FleetEvent

SPEC = WorkerSpec(0, HostedModel("m", ("m:latest",)), engine="fake")
SETTINGS = RestartSettings(initial_delay_seconds=0.01, max_delay_seconds=0.02, max_early_exits=3)


class ScriptedSeat:
    """A seat whose fate the test decides."""

    needs = "a node with 1 free GPU"

    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.ends: asyncio.Queue[tuple[int, str] | ActorLost] = asyncio.Queue()
        self.refusals: list[Exception] = []
        self.starts = 0
        self.stopped_after: list[float] = []
        self.has_left = False

    async def start(self, spec: dict[str, object]) -> Placed:
        """Starts when there is room."""
        await self.room.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        self.starts += 1
        return Placed(f"10.0.0.1:{self.starts}", "node")

    async def ended(self) -> tuple[int, str]:
        """Ends as the test says."""
        end = await self.ends.get()
        if isinstance(end, ActorLost):
            raise end
        return end

    async def stop(self, timeout_seconds: float) -> None:
        """Ends the worker well."""
        self.stopped_after.append(timeout_seconds)
        self.ends.put_nowait((0, "drained"))

    async def leave(self) -> None:
        """Notes that it is given up."""
        self.has_left = True


class Kept:
    """A keeper that runs, and what it tells."""

    def __init__(self) -> None:
        self.seat = ScriptedSeat()
        self.events: asyncio.Queue[FleetEvent] = asyncio.Queue()
        self.keeper = ActorSupervisor(SPEC, lambda: self.seat, SETTINGS, self.events.put_nowait)
        self.task = asyncio.create_task(self.keeper.run())

    async def told(self, kind: type[FleetEvent], state: ProcessState | None = None) -> FleetEvent:
        """Reads events up to one of a kind."""
        async with asyncio.timeout(10):
            while True:
                event = await self.events.get()
                if isinstance(event, kind) and (state is None or getattr(event, "state", None) is state):
                    return event

    async def placed(self) -> Added:
        """Reads events up to one that tells an address."""
        while not (event := await self.told(Added)).address:
            pass
        return event


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    """A keeper, ended at the end."""
    made = Kept()
    yield made
    made.keeper.kill()
    await made.task


async def test_a_worker_without_room_is_told_and_waits(kept: Kept) -> None:
    """The worker is announced without an address, with what it waits for, and gets one when there is room."""
    assert await kept.told(Added) == Added("worker-0", "", ("m:latest",), is_supervised=True)
    news = await kept.told(Changed, ProcessState.PLACING)
    assert "a node with 1 free GPU" in news.reason
    kept.seat.room.set()
    assert await kept.placed() == Added("worker-0", "10.0.0.1:1", ("m:latest",), is_supervised=True)


async def test_a_worker_that_dies_is_started_again_on_its_seat(kept: Kept) -> None:
    """A death is told with its cause and a pause, and the new life has a new address and one restart."""
    kept.seat.room.set()
    await kept.placed()
    kept.seat.ends.put_nowait((-9, "it was killed by SIGKILL"))
    news = await kept.told(Changed, ProcessState.RESTARTING)
    assert (news.reason, news.restarts) == ("it was killed by SIGKILL", 1)
    assert await kept.placed() == Added("worker-0", "10.0.0.1:2", ("m:latest",), restarts=1, is_supervised=True)


async def test_a_lost_node_is_nobodys_fault(kept: Kept) -> None:
    """However often nodes are lost, the worker is placed again and never given up."""
    kept.seat.room.set()
    for loss in range(1, 6):
        await kept.placed()
        kept.seat.ends.put_nowait(ActorLost("the node died"))
        assert (await kept.told(Changed, ProcessState.PLACING)).restarts == loss
    assert (await kept.placed()).restarts == 5


async def test_waiting_for_room_counts_no_restarts(kept: Kept) -> None:
    """However often the cluster gives up a call of a worker that has no place, it was lost once."""
    kept.seat.room.set()
    await kept.placed()
    kept.seat.refusals = [ActorLost("the actor is unavailable")] * 3
    kept.seat.ends.put_nowait(ActorLost("the node died"))
    await kept.told(Changed, ProcessState.PLACING)
    assert await kept.told(Added) == Added("worker-0", "10.0.0.1:2", ("m:latest",), restarts=1, is_supervised=True)


async def test_a_worker_that_keeps_dying_is_given_up_with_its_cause(kept: Kept) -> None:
    """A crash loop ends as FAILED; a restart that is asked for begins anew."""
    kept.seat.room.set()
    for _ in range(3):
        await kept.placed()
        kept.seat.ends.put_nowait((3, "the engine died"))
    news = await kept.told(Changed, ProcessState.FAILED)
    assert "died 3 times" in news.reason and "the engine died" in news.reason
    await kept.keeper.restart(0.0)
    assert (await kept.placed()).address == "10.0.0.1:4"


async def test_a_process_that_cannot_be_started_is_given_up(kept: Kept) -> None:
    """What the node's system refuses counts as a failed start."""
    kept.seat.refusals = [OSError("no such file")] * 3
    kept.seat.room.set()
    assert "no such file" in (await kept.told(Changed, ProcessState.FAILED)).reason


async def test_a_restart_drains_and_does_not_wait(kept: Kept) -> None:
    """The present life is asked to drain; the next one begins without a pause."""
    kept.seat.room.set()
    await kept.placed()
    await kept.keeper.restart(7.0)
    assert kept.seat.stopped_after == [12.0]
    assert (await kept.told(Changed, ProcessState.RESTARTING)).reason == "is being restarted"
    assert (await kept.placed()).address == "10.0.0.1:2"


async def test_stopping_drains_and_gives_the_seat_back(kept: Kept) -> None:
    """A stopped worker is drained, removed, and holds no GPU any more."""
    kept.seat.room.set()
    await kept.placed()
    await kept.keeper.stop(1.0)
    await kept.told(Removed)
    await kept.task
    assert kept.seat.stopped_after == [6.0] and kept.seat.has_left


async def test_a_worker_that_still_waits_for_room_leaves_at_once(kept: Kept) -> None:
    """Stopping one that has no place yet takes no time and gives its request for one back."""
    await kept.told(Changed, ProcessState.PLACING)
    await kept.keeper.stop(30.0)
    await asyncio.wait_for(kept.task, 5)
    assert kept.seat.has_left and kept.seat.stopped_after == []
