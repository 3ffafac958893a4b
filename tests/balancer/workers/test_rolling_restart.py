"""Orders to single workers: what a caller that leaves, a failed restart and a drain that is taken back lead to."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.balancer.scripted_worker import Script, eventually, text_of
from vllama_balancer.fleet.events import Changed, ProcessState, Removed
from vllama_balancer.workers.rolling_restart import OrderFailed, RollingRestart
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.balancer.conftest import Fleet
    from tests.balancer.scripted_worker import ScriptedWorker


class Supervisors:
    """Restarts and ends scripted workers as a fleet does, when it may."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.begun: list[str] = []
        """Workers whose process was ended, in order."""
        self.broken: dict[str, Callable[[str], None]] = {}
        """What happens to a worker instead of a new start."""

    def owns(self, name: str) -> bool:
        return name != "w9"

    async def restart(self, name: str) -> None:
        self.begun.append(name)
        worker = worker_of(self.fleet, name)
        await worker.die()
        await self.may_go_on.wait()
        if name in self.broken:
            self.broken[name](name)
        else:
            await worker.start()

    async def retire(self, name: str) -> None:
        self.begun.append(name)
        await self.may_go_on.wait()
        await worker_of(self.fleet, name).die()
        self.fleet.pool.apply(Removed(name, "was stopped"))


def worker_of(fleet: Fleet, name: str) -> ScriptedWorker:
    return next(worker for worker in fleet.workers if worker.name == name)


class Ordered:
    """A fleet with one busy worker, and the orders to it."""

    def __init__(self, fleet: Fleet, rolling: RollingRestart, supervisors: Supervisors) -> None:
        self.fleet = fleet
        self.rolling = rolling
        self.supervisors = supervisors
        self.tasks: list[asyncio.Task] = []

    def begin(self, order) -> asyncio.Task:
        task = asyncio.create_task(order)
        self.tasks.append(task)
        return task

    async def busy_worker(self) -> tuple[ScriptedWorker, asyncio.Task]:
        """Begins a stream that pauses, and returns its worker and it."""
        for worker in self.fleet.workers:
            worker.script = Script(pause_after_tokens=2)
        stream = self.begin(self.fleet.generate())
        await eventually(lambda: any(worker.running for worker in self.fleet.workers))
        return next(worker for worker in self.fleet.workers if worker.running), stream

    def reason(self, worker: ScriptedWorker) -> str:
        """Why a worker takes no requests."""
        found = self.fleet.pool.find(worker.name)
        return found.unavailable if found is not None else "has left"

    async def finish(self, stream: asyncio.Task) -> None:
        for worker in self.fleet.workers:
            worker.go_on.set()
        assert (await stream).text == text_of(8)


@pytest.fixture
async def ordered(make_fleet) -> AsyncIterator[Callable[..., object]]:
    """Makes fleets with orders; ends the orders."""
    made: list[Ordered] = []

    async def make(count: int = 2, drain_seconds: float = 30.0, *, owned: bool = True) -> Ordered:
        fleet = await make_fleet(count)
        supervisors = Supervisors(fleet)
        made.append(
            Ordered(fleet, RollingRestart(fleet.pool, supervisors if owned else None, drain_seconds), supervisors)
        )
        return made[-1]

    yield make
    for each in made:
        await each.rolling.close()
        for task in each.tasks:
            task.cancel()
        await asyncio.gather(*each.tasks, return_exceptions=True)


async def cancelled(order: asyncio.Task) -> None:
    """Lets the caller of an order leave."""
    order.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await order


@pytest.mark.parametrize(("kind", "owned"), [("drain", True), ("drain", False), ("restart", True)])
async def test_a_caller_that_leaves_leaves_the_worker_in_service(ordered, kind: str, owned: bool) -> None:
    """Ctrl-C while its streams finish: no process is ended, and it takes requests again."""
    orders = await ordered(owned=owned)
    worker, stream = await orders.busy_worker()
    order = orders.begin(
        orders.rolling.drain(worker.name, None) if kind == "drain" else orders.rolling.restart(worker.name)
    )
    await eventually(lambda: "held" in orders.reason(worker))
    await cancelled(order)
    await eventually(lambda: not orders.reason(worker))
    assert orders.supervisors.begun == []
    await orders.finish(stream)
    assert worker.report.state == worker_pb2.WORKER_STATE_READY


async def test_a_caller_that_leaves_a_drain_shared_with_others_takes_it_back(ordered) -> None:
    """Where another balancer's streams are waited for, the worker drains already: it is ready again."""
    orders = await ordered(owned=False)
    worker = orders.fleet.workers[0]
    worker.running += 1  # a stream of another balancer
    order = orders.begin(orders.rolling.drain(worker.name, None))
    await eventually(lambda: worker.report.state == worker_pb2.WORKER_STATE_DRAINING)
    await cancelled(order)
    await eventually(lambda: not orders.reason(worker))
    worker.running -= 1


async def test_a_restart_goes_on_without_its_caller_once_the_process_ends(ordered) -> None:
    """The worker comes back whoever waits for it, and meanwhile no other one is restarted."""
    orders = await ordered()
    orders.supervisors.may_go_on.clear()
    first, second = orders.fleet.workers
    before = first.boot_id
    order = orders.begin(orders.rolling.restart(first.name))
    await eventually(lambda: orders.supervisors.begun == [first.name])
    await cancelled(order)
    other = orders.begin(orders.rolling.restart(second.name))
    await eventually(lambda: orders.reason(first) and not orders.reason(second))
    orders.supervisors.may_go_on.set()
    await other
    assert not orders.reason(first)
    assert first.boot_id != before
    assert orders.supervisors.begun == [first.name, second.name]


async def test_a_drain_goes_on_without_its_caller_once_the_process_ends(ordered) -> None:
    """It was being ended."""
    orders = await ordered()
    orders.supervisors.may_go_on.clear()
    worker = orders.fleet.workers[0]
    order = orders.begin(orders.rolling.drain(worker.name, None))
    await eventually(lambda: orders.supervisors.begun == [worker.name])
    await cancelled(order)
    orders.supervisors.may_go_on.set()
    await eventually(lambda: orders.reason(worker) == "has left")


@pytest.mark.parametrize("kind", ["drain", "restart"])
async def test_a_drain_is_bounded(ordered, kind: str) -> None:
    """A stream that outlasts --drain-timeout moves to another worker, whole."""
    orders = await ordered(drain_seconds=0.1)
    worker, stream = await orders.busy_worker()
    if kind == "drain":
        assert await orders.rolling.drain(worker.name, None) == 1
    else:
        await orders.rolling.restart(worker.name)
        assert not orders.reason(worker)
    await orders.finish(stream)


async def test_a_worker_in_a_new_incarnation_is_no_longer_held(ordered) -> None:
    """Its supervisor has restarted what was drained."""
    orders = await ordered(owned=False)
    worker = orders.fleet.workers[0]
    assert await orders.rolling.drain(worker.name, None) == 0
    assert "held" in orders.reason(worker)
    await worker.die()
    await worker.start()
    await eventually(lambda: not orders.reason(worker))


async def test_a_worker_that_dies_while_it_is_drained_for_a_restart_is_restarted(ordered) -> None:
    """Nothing is waited for that has gone."""
    orders = await ordered()
    worker, stream = await orders.busy_worker()
    order = orders.begin(orders.rolling.restart(worker.name))
    await eventually(lambda: "held" in orders.reason(worker))
    await worker.die()
    await worker.start()
    await order
    assert not orders.reason(worker)
    await orders.finish(stream)


def given_up(fleet: Fleet) -> Callable[[str], None]:
    """The supervisor gives the worker up."""
    return lambda name: fleet.pool.apply(Changed(name, ProcessState.FAILED, "failed to start 3 times: no such model"))


def crashing(fleet: Fleet) -> Callable[[str], None]:
    """The process ends again and again, and its supervisor goes on."""
    return lambda name: fleet.pool.apply(Changed(name, ProcessState.RESTARTING, "was killed by SIGKILL", restarts=3))


def leaving(fleet: Fleet) -> Callable[[str], None]:
    """The worker is removed."""
    return lambda name: fleet.pool.apply(Removed(name, "was stopped"))


def failing(fleet: Fleet) -> Callable[[str], None]:
    """The order cannot be carried out."""

    def fail(name: str) -> None:
        raise OSError("too many open files")

    return fail


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (given_up, "worker w0 did not come back: it failed to start 3 times: no such model"),
        (crashing, "worker w0 did not come back: it was killed by SIGKILL"),
        (leaving, "worker w0 did not come back: it has left"),
        (failing, "worker w0 could not be restarted: too many open files"),
    ],
)
async def test_a_worker_that_does_not_come_back_fails_its_restart(ordered, breaks, reason: str) -> None:
    """With the cause."""
    orders = await ordered()
    orders.supervisors.broken["w0"] = breaks(orders.fleet)
    with pytest.raises(OrderFailed) as caught:
        await orders.rolling.restart("w0")
    assert str(caught.value) == reason
    found = orders.fleet.pool.find("w0")
    assert found is None or not found.held


async def test_a_worker_that_sleeps_may_leave_when_it_is_restarted(ordered) -> None:
    """Its process has ended, so the scheduler ends it."""
    orders = await ordered()
    worker = orders.fleet.workers[0]
    worker.become(worker_pb2.WORKER_STATE_SLEEPING)
    await eventually(lambda: "asleep" in orders.reason(worker))
    orders.supervisors.broken["w0"] = leaving(orders.fleet)
    await orders.rolling.restart("w0")
    assert orders.reason(worker) == "has left"


async def test_a_given_up_worker_can_be_restarted(ordered) -> None:
    """Its state before the order does not count."""
    orders = await ordered()
    worker = orders.fleet.workers[0]
    await worker.die()
    orders.fleet.pool.apply(Changed(worker.name, ProcessState.FAILED, "died 5 times"))
    order = orders.begin(orders.rolling.restart(worker.name))
    await eventually(lambda: orders.supervisors.begun == [worker.name])
    orders.fleet.pool.apply(Changed(worker.name, ProcessState.RUNNING, pid=7))
    await order
    assert not orders.reason(worker)


async def test_a_running_drain_is_taken_back(ordered) -> None:
    """Its caller is told, and the stream goes on where it is."""
    orders = await ordered()
    worker, stream = await orders.busy_worker()
    order = orders.begin(orders.rolling.drain(worker.name, None))
    await eventually(lambda: "held" in orders.reason(worker))
    await orders.rolling.undrain(worker.name)
    with pytest.raises(OrderFailed, match="was taken back"):
        await order
    assert not orders.reason(worker)
    await orders.finish(stream)
    assert orders.supervisors.begun == []


async def test_a_drained_worker_of_another_machine_is_put_back(ordered) -> None:
    """It still runs: it takes requests again."""
    orders = await ordered(1, owned=False)
    worker = orders.fleet.workers[0]
    await orders.rolling.drain(worker.name, None)
    await orders.rolling.undrain(worker.name)
    await eventually(lambda: not orders.reason(worker))
    assert (await orders.fleet.generate()).text == text_of(8)


async def test_what_cannot_be_taken_back_is_refused(ordered) -> None:
    """A worker that serves, and one that is being ended."""
    orders = await ordered()
    orders.supervisors.may_go_on.clear()
    with pytest.raises(OrderFailed, match="is not drained"):
        await orders.rolling.undrain("w0")
    order = orders.begin(orders.rolling.drain("w0", None))
    await eventually(lambda: orders.supervisors.begun == ["w0"])
    with pytest.raises(OrderFailed, match="is being ended"):
        await orders.rolling.undrain("w0")
    with pytest.raises(OrderFailed, match="already"):
        await orders.rolling.restart("w0")
    orders.supervisors.may_go_on.set()
    await order
