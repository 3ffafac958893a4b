"""The queue in front of the workers: places are granted in turn, and none is ever lost."""

import asyncio
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from tests.balancer.scripted_worker import eventually
from vllama_balancer.dispatch.admission import Admission, AdmissionSettings, ServiceRate
from vllama_balancer.dispatch.placer import PlacementRequest, Placer
from vllama_balancer.dispatch.retry_budget import RetryBudget
from vllama_balancer.errors import DeadlineExceeded, NoWorker, QueueFull
from vllama_balancer.fleet.events import Added, Changed, ProcessState
from vllama_balancer.metrics import Metrics
from vllama_balancer.names import model_key
from vllama_balancer.routing.policies import make_policy
from vllama_balancer.routing.prefix_index import Prefix
from vllama_balancer.routing.request_size import RequestSize
from vllama_balancer.workers.breaker import HealthSettings
from vllama_balancer.workers.pool import Pool
from vllama_balancer.workers.worker import Worker
from vllama_protos.v1 import worker_pb2

KEY = model_key("m")
SIZE = RequestSize(40, 10, 5, Prefix((1, 2), 5.0))


class Time:
    """A clock that tests move."""

    now = 0.0

    def __call__(self):
        """The present."""
        return self.now


class ReadyPool(Pool):
    """A pool of workers without connections."""

    def join(self, name, max_streams=2, models=("m",)):
        """Adds a ready worker."""
        worker = Worker(Added(name, "unused", models), None, HealthSettings(), self.changes, self._clock)
        self._workers[name] = worker
        worker.describe(worker_pb2.DescribeResponse(boot_id=f"{name}-1", models=models, max_streams=max_streams))
        worker.take_report(worker_pb2.WorkerReport(boot_id=f"{name}-1", state=worker_pb2.WORKER_STATE_READY))
        return worker


class House:
    """An admission over such a pool."""

    def __init__(self, *sizes, clock=None, in_flight=lambda: 0, **settings):
        self.clock = clock or Time()
        self.pool = ReadyPool(clock=self.clock)
        self.workers = [self.pool.join(f"w{i}", size) for i, size in enumerate(sizes)]
        self.budget = RetryBudget(in_flight)
        metrics = Metrics(CollectorRegistry())
        placer = Placer(self.pool, make_policy("least-load"), self.budget, metrics, random.Random(1))
        self.admission = Admission(self.pool, placer, metrics, AdmissionSettings(**settings), self.clock)

    def ask(self, client="c", deadline=None, **fields):
        """Asks for a place in a task."""
        request = PlacementRequest("r", KEY, client, SIZE, **fields)
        return asyncio.create_task(self.admission.admit(request, deadline))

    @property
    def streams(self):
        """Places taken."""
        return sum(worker.incarnation.load.streams for worker in self.workers)


async def settle():
    """Lets every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_place_is_given_at_once_when_there_is_room():
    """Without a turn of the event loop."""
    house = House(2)
    lease = await house.ask()
    assert lease.worker.name == "w0"
    house.admission.release(lease)
    assert house.streams == 0


async def test_waiters_are_served_as_places_fall_free():
    """In the order of their turns."""
    house = House(1)
    first = await house.ask()
    waiting = {name: house.ask(name[0]) for name in ("a1", "a2", "b1")}
    await settle()
    order = []
    lease = first
    while waiting:
        house.admission.release(lease)
        await settle()
        name = next(name for name, task in waiting.items() if task.done())
        order.append(name)
        lease = waiting.pop(name).result()
    house.admission.release(lease)
    assert order == ["a1", "b1", "a2"]
    assert house.streams == 0


async def test_a_client_may_put_its_own_requests_first():
    """Nobody else's."""
    house = House(1)
    lease = await house.ask()
    waiting = {"a9": house.ask("a", priority=9), "b0": house.ask("b"), "a1": house.ask("a", priority=1)}
    await settle()
    order = []
    while waiting:
        house.admission.release(lease)
        await settle()
        order.append(next(name for name, task in waiting.items() if task.done()))
        lease = waiting.pop(order[-1]).result()
    house.admission.release(lease)
    assert order == ["a1", "b0", "a9"]


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    """By the measured rate: ten a second and three in the queue are over soon."""
    house = House(1, max_queue=3)
    lease = await house.ask()
    tasks = [house.ask() for _ in range(3)]
    await settle()
    with pytest.raises(QueueFull, match="3 requests wait already") as caught:
        await house.ask()
    assert caught.value.retry_after_seconds == 1
    for task in tasks:
        task.cancel()
    house.admission.release(lease)
    await settle()
    assert (house.admission.waiting, house.streams) == (0, 0)


async def test_whoever_asks_early_is_refused_as_later():
    """Before anything is made of a request, with the same words; never while it could still be let in."""
    house = House(1, max_queue=2)
    house.admission.expect_room(KEY)
    lease = await house.ask()
    first = house.ask()
    await settle()
    house.admission.expect_room(KEY)
    second = house.ask()
    await settle()
    with pytest.raises(QueueFull, match="2 requests wait already") as caught:
        house.admission.expect_room(KEY)
    assert caught.value.retry_after_seconds == 1
    house.admission.release(lease)
    house.admission.expect_room(KEY)
    for task in (first, second):
        house.admission.release(await task)


async def test_a_full_queue_for_one_model_leaves_room_on_the_workers_of_another():
    """They stand idle, and a request for them would not wait."""
    house = House(1, max_queue=1)
    house.pool.join("other", models=("n",))
    lease = await house.ask()
    waiting = house.ask()
    await settle()
    house.admission.expect_room(model_key("n"))
    with pytest.raises(QueueFull):
        house.admission.expect_room(KEY)
    house.admission.release(lease)
    house.admission.release(await waiting)


async def test_retry_after_follows_the_service_rate():
    """One request every four seconds and five in the queue: twenty seconds."""
    house = House(1, max_queue=5)
    for _ in range(200):
        house.clock.now += 4.0
        house.admission.release(await house.ask())
    lease = await house.ask()
    tasks = [house.ask() for _ in range(5)]
    await settle()
    assert 18 <= house.admission.retry_after_seconds() <= 22
    for task in tasks:
        task.cancel()
    house.admission.release(lease)


async def test_a_cancelled_waiter_leaves_at_once():
    """And is not served any more."""
    house = House(1)
    lease = await house.ask()
    leaver, stayer = house.ask("a"), house.ask("b")
    await settle()
    leaver.cancel()
    await settle()
    assert house.admission.waiting == 1
    house.admission.release(lease)
    house.admission.release(await stayer)
    assert house.streams == 0


async def test_a_place_granted_to_a_waiter_that_is_cancelled_goes_to_the_next():
    """Granted and cancelled in the same turn of the event loop."""
    house = House(1)
    lease = await house.ask()
    unlucky, lucky = house.ask("a"), house.ask("b")
    await settle()
    house.admission.release(lease)
    unlucky.cancel()
    house.admission.release(await lucky)
    assert (house.admission.waiting, house.streams) == (0, 0)


async def test_a_returning_request_goes_ahead_and_is_never_refused():
    """It has a client that is being served."""
    house = House(1, max_queue=1)
    lease = await house.ask()
    fresh = house.ask("a")
    await settle()
    returning = house.ask("b", is_retry=True)
    await settle()
    house.admission.release(lease)
    await settle()
    assert returning.done()
    assert not fresh.done()
    house.admission.release(await returning)
    house.admission.release(await fresh)


async def test_a_returning_request_prefers_other_workers():
    """Even when the one that failed it is idle."""
    house = House(1, 1)
    lease = await house.ask(excluded={"w0-1"}, is_retry=True)
    assert lease.worker.name == "w1"
    waiting = house.ask(excluded={"w0-1"}, is_retry=True)
    await settle()
    assert not waiting.done()
    house.admission.release(lease)
    second = await waiting
    assert second.worker.name == "w1"
    house.admission.release(second)


async def test_a_newcomer_passes_a_retry_that_waits_for_something_of_its_own():
    """A place that the retry does not want is not kept empty for it."""
    house = House(1, 1)
    lease = await house.ask(excluded={"w0-1"}, is_retry=True)
    retry = house.ask(excluded={"w0-1"}, is_retry=True)
    await settle()
    newcomer = await house.ask()
    assert newcomer.worker.name == "w0"
    retry.cancel()
    house.admission.release(newcomer)
    house.admission.release(lease)


async def test_retries_wait_for_the_budget_and_not_for_ever():
    """Three may run at once; the fourth starts when one has its first token."""
    house = House(8)
    retries = [house.ask(is_retry=True, needs_retry_budget=True) for _ in range(4)]
    await settle()
    assert [task.done() for task in retries] == [True, True, True, False]
    house.admission.first_token(retries[0].result())
    leases = [await task for task in retries]
    assert house.budget.running == 3
    for lease in leases:
        house.admission.release(lease)
    assert (house.budget.running, house.streams) == (0, 0)


async def test_the_budget_is_a_tenth_of_what_is_in_flight():
    """When that is more than three."""
    assert House(1, in_flight=lambda: 80).budget.limit == 8
    assert House(1, in_flight=lambda: 5).budget.limit == 3


async def test_a_passed_deadline_is_refused_before_a_place_is_taken():
    """Nobody would read the answer."""
    house = House(1)
    with pytest.raises(DeadlineExceeded, match="before the request was placed"):
        await house.ask(deadline=-1.0)
    assert house.streams == 0


async def test_nobody_waits_for_a_fleet_that_has_given_up():
    """All workers FAILED: patience, then NoWorker."""
    loop = asyncio.get_running_loop()
    house = House(1, clock=loop.time, no_worker_timeout_seconds=0.05)
    house.pool.apply(Changed("w0", ProcessState.FAILED, "a crash loop"))
    with pytest.raises(NoWorker):
        await house.ask()


async def test_a_restarting_worker_is_worth_waiting_for():
    """Beyond the patience."""
    loop = asyncio.get_running_loop()
    house = House(1, clock=loop.time, no_worker_timeout_seconds=0.02)
    house.pool.apply(Changed("w0", ProcessState.RESTARTING, "it died"))
    task = house.ask()
    done, _ = await asyncio.wait({task}, timeout=0.1)
    assert not done
    house.pool.apply(Changed("w0", ProcessState.RUNNING))
    house.admission.grant()
    house.admission.release(await task)


async def test_a_deadline_that_passes_while_nobody_serves_is_the_fleets_fault():
    """The worker is expected back, but came too late: the caller did not ask for too much."""
    loop = asyncio.get_running_loop()
    house = House(1, clock=loop.time)
    house.pool.apply(Changed("w0", ProcessState.RESTARTING, "it died"))
    with pytest.raises(NoWorker) as caught:
        await house.ask(deadline=loop.time() + 0.02)
    assert caught.value.retry_after_seconds


async def test_a_deadline_that_passes_in_the_queue_of_workers_that_serve_is_a_deadline():
    """They were there, and busy."""
    loop = asyncio.get_running_loop()
    house = House(1, clock=loop.time)
    lease = await house.ask()
    with pytest.raises(DeadlineExceeded):
        await house.ask(deadline=loop.time() + 0.02)
    house.admission.release(lease)


async def test_nobody_waits_for_ever_for_workers_that_only_may_come_back():
    """A worker that starts again and again, or finds no machine, does not keep requests for ever."""
    loop = asyncio.get_running_loop()
    house = House(1, clock=loop.time, no_worker_timeout_seconds=0.01, recovery_timeout_seconds=0.05)
    house.pool.apply(Changed("w0", ProcessState.PLACING, "waits for a GPU"))
    begun = loop.time()
    with pytest.raises(NoWorker):
        await house.ask()
    assert loop.time() - begun >= 0.05


async def test_a_queue_that_moves_has_no_bound_in_time():
    """Its workers serve: whoever set no deadline is served in turn."""
    loop = asyncio.get_running_loop()
    house = House(1, clock=loop.time, no_worker_timeout_seconds=0.01, recovery_timeout_seconds=0.01)
    lease = await house.ask()
    task = house.ask()
    done, _ = await asyncio.wait({task}, timeout=0.1)
    assert not done
    house.admission.release(lease)
    house.admission.release(await task)


def test_the_service_rate_forgets_what_was_long_ago():
    """An hour of silence means nothing is served."""
    clock = Time()
    rate = ServiceRate(clock)
    for _ in range(1000):
        clock.now += 0.1
        rate.ended()
    assert rate.per_second() == pytest.approx(10, rel=0.1)
    clock.now += 3600
    assert rate.per_second() < 0.01


class AdmissionMachine(RuleBasedStateMachine):
    """Asks, grants, cancels, releases, loses and gains workers in any order; nothing may leak."""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.loop = self.runner.get_loop()
        self.tasks: list[asyncio.Task] = []
        self.leases = []
        self.runner.run(self._open())

    async def _open(self):
        self.house = House(2, 1, max_queue=4)

    def teardown(self):
        """Ends everything and looks for what is left."""
        self.runner.run(self._close())
        self.runner.close()

    async def _close(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self._collect()
        for lease in self.leases:
            self.house.admission.release(lease)
        assert self.house.admission.waiting == 0
        assert self.house.admission._waiting_first == 0
        assert self.house.budget.running == 0
        for worker in self.house.workers:
            load = worker.incarnation.load
            assert (load.streams, load.prompt_tokens, load.kv_tokens, len(worker.incarnation.leases)) == (0, 0, 0, 0)

    @rule(client=st.sampled_from("abc"), returning=st.booleans(), budgeted=st.booleans(), excluded=st.booleans())
    def ask(self, client, returning, budgeted, excluded):
        """A request comes, or comes back."""
        fields = {"is_retry": returning, "needs_retry_budget": returning and budgeted}
        if returning and excluded:
            fields["excluded"] = {"w0-1"}
        self.runner.run(self._ask(client, fields))

    async def _ask(self, client, fields):
        self.tasks.append(self.house.ask(client, **fields))
        await settle()
        self._collect()

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 100), computed=st.booleans(), cancel_too=st.booleans())
    def release(self, index, computed, cancel_too):
        """A request ends; perhaps a waiter gives up in the same turn of the loop."""
        self.runner.run(self._release(index, computed, cancel_too))

    async def _release(self, index, computed, cancel_too):
        lease = self.leases.pop(index % len(self.leases))
        if computed:
            self.house.admission.first_token(lease)
        self.house.admission.release(lease)
        if cancel_too and self.tasks:
            self.tasks[index % len(self.tasks)].cancel()
        await settle()
        self._collect()

    @precondition(lambda self: self.tasks)
    @rule(index=st.integers(0, 100))
    def cancel(self, index):
        """A waiting client leaves."""
        self.runner.run(self._cancel(index))

    async def _cancel(self, index):
        self.tasks[index % len(self.tasks)].cancel()
        await settle()
        self._collect()

    @rule(index=st.integers(0, 1), out=st.booleans())
    def hold(self, index, out):
        """A worker is taken out, or put back."""
        self.runner.run(self._hold(index, out))

    async def _hold(self, index, out):
        worker = self.house.workers[index]
        worker.hold("on purpose") if out else worker.unhold()
        self.house.admission.grant()
        await settle()
        self._collect()

    def _collect(self):
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            if not task.cancelled() and task.exception() is None:
                self.leases.append(task.result())
            elif not task.cancelled():
                assert isinstance(task.exception(), QueueFull)

    @invariant()
    def counts_agree(self):
        """What is counted is what is held."""
        assert self.house.streams == len(self.leases)
        assert self.house.admission.waiting == len(self.tasks)
        assert all(w.incarnation.load.streams <= w.incarnation.load.capacity.max_streams for w in self.house.workers)
        assert 0 <= self.house.budget.running <= 3

    @invariant()
    def nobody_waits_beside_a_free_place(self):
        """Unless it waits for another worker or for the budget."""
        if any(not w.unavailable and w.candidate() is not None for w in self.house.workers):
            line = self.house.admission._queues.get(KEY)
            assert line is None or line.next_turn() is None


TestAdmissionMachine = AdmissionMachine.TestCase
TestAdmissionMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


async def test_the_pool_wakes_nobody_in_vain():
    """A change of availability is told once."""
    house = House(1)
    version = house.pool.changes.version
    worker = house.workers[0]
    worker.take_report(worker_pb2.WorkerReport(boot_id="w0-1", state=worker_pb2.WORKER_STATE_READY, running=5))
    assert house.pool.changes.version == version
    worker.hold("x")
    await eventually(lambda: house.pool.changes.version == version + 1)


class Stumbling:
    """A policy with a bug that shows for one request only."""

    name = "stumbling"

    def __init__(self):
        self.sound = make_policy("least-load")

    def pick(self, snapshot, demand, rng):
        """Fails for a prompt of 13 tokens."""
        if demand.prompt_tokens == 13:
            raise ZeroDivisionError
        return self.sound.pick(snapshot, demand, rng)


async def test_an_error_in_placing_one_request_is_that_requests_alone():
    """Whoever gives a place back, and whoever waits behind, does not suffer for it."""
    house = House(1)
    house.admission._placer._policy = Stumbling()
    lease = await house.ask()
    unlucky = asyncio.create_task(
        house.admission.admit(PlacementRequest("r", KEY, "a", SIZE._replace(prompt_tokens=13)), None)
    )
    await settle()
    lucky = house.ask("b")
    await settle()
    house.admission.release(lease)
    with pytest.raises(ZeroDivisionError):
        await unlucky
    house.admission.release(await lucky)
    assert (house.admission.waiting, house.streams) == (0, 0)
