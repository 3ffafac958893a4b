"""The queue in front of the workers: leases are granted in turn, and none is ever lost."""

import asyncio
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from tests.balancer.scripted_worker import eventually
from vllama_balancer.dispatch.admission import Admission, AdmissionSettings, ServiceRate
from vllama_balancer.dispatch.placement_request import PlacementRequest
from vllama_balancer.dispatch.placer import Placer
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
    """A clock that tests set."""

    now = 0.0

    def __call__(self):
        """The current time."""
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


class Harness:
    """An admission over such a pool."""

    def __init__(self, *sizes, clock=None, in_flight=lambda: 0, placer=Placer, **settings):
        self.clock = clock or Time()
        self.pool = ReadyPool(clock=self.clock)
        self.workers = [self.pool.join(f"w{i}", size) for i, size in enumerate(sizes)]
        self.budget = RetryBudget(in_flight)
        metrics = Metrics(CollectorRegistry())
        self.placer = placer(self.pool, make_policy("least-load"), self.budget, metrics, random.Random(1))
        self.admission = Admission(self.pool, self.placer, metrics, AdmissionSettings(**settings), self.clock)

    def ask(self, client="c", deadline=None, **fields):
        """Requests a lease in a task."""
        request = PlacementRequest("r", KEY, client, SIZE, **fields)
        return asyncio.create_task(self.admission.admit(request, deadline))

    @property
    def streams(self):
        """Leases held."""
        return sum(worker.incarnation.load.streams for worker in self.workers)


async def settle():
    """Runs every task as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_lease_is_granted_at_once_when_there_is_room():
    """Without a turn of the event loop."""
    harness = Harness(2)
    lease = await harness.ask()
    assert lease.worker.name == "w0"
    harness.admission.release(lease)
    assert harness.streams == 0


async def test_waiters_are_served_as_leases_are_released():
    """In the order of their turns."""
    harness = Harness(1)
    first = await harness.ask()
    waiting = {name: harness.ask(name[0]) for name in ("a1", "a2", "b1")}
    await settle()
    order = []
    lease = first
    while waiting:
        harness.admission.release(lease)
        await settle()
        name = next(name for name, task in waiting.items() if task.done())
        order.append(name)
        lease = waiting.pop(name).result()
    harness.admission.release(lease)
    assert order == ["a1", "b1", "a2"]
    assert harness.streams == 0


class CountingPlacer(Placer):
    """Counts its attempts to place a request."""

    attempts = 0

    def place(self, request):
        self.attempts += 1
        return super().place(request)


@pytest.mark.parametrize("free", [0, 1, 2])
async def test_suspects_that_cannot_be_placed_are_not_tried_one_by_one(free):
    """One attempt for each worker without a suspect, however many wait."""
    harness = Harness(*[100] * 4, placer=CountingPlacer)
    leases = [await harness.ask(crash_count=1) for _ in range(4)]
    waiting = [harness.ask(crash_count=1, is_retry=True) for _ in range(50)]
    await settle()
    for lease in leases[:free]:
        lease.record_history(0, had_output=False)
    before = harness.placer.attempts
    harness.admission.grant()
    assert harness.placer.attempts - before == free
    for task in waiting:
        task.cancel()
    await settle()


async def test_a_priority_orders_the_clients_own_requests():
    """And no other client's."""
    harness = Harness(1)
    lease = await harness.ask()
    waiting = {"a9": harness.ask("a", priority=9), "b0": harness.ask("b"), "a1": harness.ask("a", priority=1)}
    await settle()
    order = []
    while waiting:
        harness.admission.release(lease)
        await settle()
        order.append(next(name for name, task in waiting.items() if task.done()))
        lease = waiting.pop(order[-1]).result()
    harness.admission.release(lease)
    assert order == ["a1", "b0", "a9"]


async def test_a_full_queue_refuses_at_once_with_retry_after():
    """By the measured rate: ten a second and three in the queue are over soon."""
    harness = Harness(1, max_queue=3)
    lease = await harness.ask()
    tasks = [harness.ask() for _ in range(3)]
    await settle()
    with pytest.raises(QueueFull, match="3 requests wait already") as caught:
        await harness.ask()
    assert caught.value.retry_after_seconds == 1
    for task in tasks:
        task.cancel()
    harness.admission.release(lease)
    await settle()
    assert (harness.admission.waiting, harness.streams) == (0, 0)


async def test_an_early_check_for_room_agrees_with_admission():
    """Before a request is translated, with the same message; never while it could still be admitted."""
    harness = Harness(1, max_queue=2)
    harness.admission.raise_if_full(KEY)
    lease = await harness.ask()
    first = harness.ask()
    await settle()
    harness.admission.raise_if_full(KEY)
    second = harness.ask()
    await settle()
    with pytest.raises(QueueFull, match="2 requests wait already") as caught:
        harness.admission.raise_if_full(KEY)
    assert caught.value.retry_after_seconds == 1
    harness.admission.release(lease)
    harness.admission.raise_if_full(KEY)
    for task in (first, second):
        harness.admission.release(await task)


async def test_a_full_queue_for_one_model_leaves_room_on_the_workers_of_another():
    """They are idle, and a request for them would not wait."""
    harness = Harness(1, max_queue=1)
    harness.pool.join("other", models=("n",))
    lease = await harness.ask()
    waiting = harness.ask()
    await settle()
    harness.admission.raise_if_full(model_key("n"))
    with pytest.raises(QueueFull):
        harness.admission.raise_if_full(KEY)
    harness.admission.release(lease)
    harness.admission.release(await waiting)


async def test_retry_after_follows_the_service_rate():
    """One request every four seconds and five in the queue: twenty seconds."""
    harness = Harness(1, max_queue=5)
    for _ in range(200):
        harness.clock.now += 4.0
        harness.admission.release(await harness.ask())
    lease = await harness.ask()
    tasks = [harness.ask() for _ in range(5)]
    await settle()
    assert 18 <= harness.admission.retry_after_seconds() <= 22
    for task in tasks:
        task.cancel()
    harness.admission.release(lease)


async def test_a_cancelled_waiter_leaves_at_once():
    """And is not served later."""
    harness = Harness(1)
    lease = await harness.ask()
    leaver, stayer = harness.ask("a"), harness.ask("b")
    await settle()
    leaver.cancel()
    await settle()
    assert harness.admission.waiting == 1
    harness.admission.release(lease)
    harness.admission.release(await stayer)
    assert harness.streams == 0


async def test_a_lease_granted_to_a_cancelled_waiter_goes_to_the_next():
    """Granted and cancelled in the same turn of the event loop."""
    harness = Harness(1)
    lease = await harness.ask()
    unlucky, lucky = harness.ask("a"), harness.ask("b")
    await settle()
    harness.admission.release(lease)
    unlucky.cancel()
    harness.admission.release(await lucky)
    assert (harness.admission.waiting, harness.streams) == (0, 0)


async def test_a_retry_goes_ahead_and_is_never_refused():
    """Its client is being served already."""
    harness = Harness(1, max_queue=1)
    lease = await harness.ask()
    fresh = harness.ask("a")
    await settle()
    retry = harness.ask("b", is_retry=True)
    await settle()
    harness.admission.release(lease)
    await settle()
    assert retry.done()
    assert not fresh.done()
    harness.admission.release(await retry)
    harness.admission.release(await fresh)


async def test_a_retry_prefers_other_workers():
    """Even when the one that failed it is idle."""
    harness = Harness(1, 1)
    lease = await harness.ask(excluded={"w0-1"}, is_retry=True)
    assert lease.worker.name == "w1"
    waiting = harness.ask(excluded={"w0-1"}, is_retry=True)
    await settle()
    assert not waiting.done()
    harness.admission.release(lease)
    second = await waiting
    assert second.worker.name == "w1"
    harness.admission.release(second)


async def test_a_new_request_passes_a_retry_that_waits_for_another_worker():
    """Capacity that the retry cannot use is not kept free for it."""
    harness = Harness(1, 1)
    lease = await harness.ask(excluded={"w0-1"}, is_retry=True)
    retry = harness.ask(excluded={"w0-1"}, is_retry=True)
    await settle()
    newer = await harness.ask()
    assert newer.worker.name == "w0"
    retry.cancel()
    harness.admission.release(newer)
    harness.admission.release(lease)


async def test_retries_wait_for_the_budget_and_not_for_ever():
    """Three may run at once; the fourth starts when one has its first token."""
    harness = Harness(8)
    retries = [harness.ask(is_retry=True, needs_retry_budget=True) for _ in range(4)]
    await settle()
    assert [task.done() for task in retries] == [True, True, True, False]
    harness.admission.first_token(retries[0].result())
    leases = [await task for task in retries]
    assert harness.budget.running == 3
    for lease in leases:
        harness.admission.release(lease)
    assert (harness.budget.running, harness.streams) == (0, 0)


async def test_the_budget_is_a_tenth_of_what_is_in_flight():
    """When that is more than three."""
    assert Harness(1, in_flight=lambda: 80).budget.limit == 8
    assert Harness(1, in_flight=lambda: 5).budget.limit == 3


async def test_a_passed_deadline_is_refused_before_a_lease_is_taken():
    """The client would not read the answer."""
    harness = Harness(1)
    with pytest.raises(DeadlineExceeded, match="before the request was placed"):
        await harness.ask(deadline=-1.0)
    assert harness.streams == 0


async def test_the_wait_ends_for_a_fleet_that_has_failed():
    """All workers FAILED: a timeout, then NoWorker."""
    loop = asyncio.get_running_loop()
    harness = Harness(1, clock=loop.time, no_worker_timeout_seconds=0.05)
    harness.pool.apply(Changed("w0", ProcessState.FAILED, "a crash loop"))
    with pytest.raises(NoWorker):
        await harness.ask()


async def test_a_restarting_worker_is_worth_waiting_for():
    """Beyond the timeout without any worker."""
    loop = asyncio.get_running_loop()
    harness = Harness(1, clock=loop.time, no_worker_timeout_seconds=0.02)
    harness.pool.apply(Changed("w0", ProcessState.RESTARTING, "it died"))
    task = harness.ask()
    done, _ = await asyncio.wait({task}, timeout=0.1)
    assert not done
    harness.pool.apply(Changed("w0", ProcessState.RUNNING))
    harness.admission.grant()
    harness.admission.release(await task)


async def test_a_deadline_that_passes_while_no_worker_serves_is_no_worker():
    """The worker is expected back, but too late: the deadline was not too short."""
    loop = asyncio.get_running_loop()
    harness = Harness(1, clock=loop.time)
    harness.pool.apply(Changed("w0", ProcessState.RESTARTING, "it died"))
    with pytest.raises(NoWorker) as caught:
        await harness.ask(deadline=loop.time() + 0.02)
    assert caught.value.retry_after_seconds


async def test_a_deadline_that_passes_in_the_queue_of_workers_that_serve_is_a_deadline():
    """They were available, and busy."""
    loop = asyncio.get_running_loop()
    harness = Harness(1, clock=loop.time)
    lease = await harness.ask()
    with pytest.raises(DeadlineExceeded):
        await harness.ask(deadline=loop.time() + 0.02)
    harness.admission.release(lease)


async def test_the_wait_for_workers_that_may_come_back_is_bounded():
    """A worker that restarts repeatedly, or finds no machine, does not hold requests for ever."""
    loop = asyncio.get_running_loop()
    harness = Harness(1, clock=loop.time, no_worker_timeout_seconds=0.01, recovery_timeout_seconds=0.05)
    harness.pool.apply(Changed("w0", ProcessState.PLACING, "waits for a GPU"))
    begun = loop.time()
    with pytest.raises(NoWorker):
        await harness.ask()
    assert loop.time() - begun >= 0.05


async def test_a_queue_that_moves_has_no_bound_in_time():
    """Its workers serve: a request without a deadline is served in turn."""
    loop = asyncio.get_running_loop()
    harness = Harness(1, clock=loop.time, no_worker_timeout_seconds=0.01, recovery_timeout_seconds=0.01)
    lease = await harness.ask()
    task = harness.ask()
    done, _ = await asyncio.wait({task}, timeout=0.1)
    assert not done
    harness.admission.release(lease)
    harness.admission.release(await task)


def test_the_service_rate_forgets_what_was_long_ago():
    """After an hour without requests the rate is near zero."""
    clock = Time()
    rate = ServiceRate(clock)
    for _ in range(1000):
        clock.now += 0.1
        rate.ended()
    assert rate.per_second() == pytest.approx(10, rel=0.1)
    clock.now += 3600
    assert rate.per_second() < 0.01


class AdmissionMachine(RuleBasedStateMachine):
    """Requests, grants, cancels and releases leases, and removes and adds workers in any order; nothing may leak."""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.loop = self.runner.get_loop()
        self.tasks: list[asyncio.Task] = []
        self.leases = []
        self.runner.run(self._open())

    async def _open(self):
        self.harness = Harness(2, 1, max_queue=4)

    def teardown(self):
        """Ends everything and checks for leaks."""
        self.runner.run(self._close())
        self.runner.close()

    async def _close(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self._collect()
        for lease in self.leases:
            self.harness.admission.release(lease)
        assert self.harness.admission.waiting == 0
        assert self.harness.admission._waiting_first == 0
        assert self.harness.budget.running == 0
        for worker in self.harness.workers:
            load = worker.incarnation.load
            assert (load.streams, load.prompt_tokens, load.kv_tokens, len(worker.incarnation.leases)) == (0, 0, 0, 0)

    @rule(client=st.sampled_from("abc"), returning=st.booleans(), budgeted=st.booleans(), excluded=st.booleans())
    def ask(self, client, returning, budgeted, excluded):
        """A request or a retry arrives."""
        fields = {"is_retry": returning, "needs_retry_budget": returning and budgeted}
        if returning and excluded:
            fields["excluded"] = {"w0-1"}
        self.runner.run(self._ask(client, fields))

    async def _ask(self, client, fields):
        self.tasks.append(self.harness.ask(client, **fields))
        await settle()
        self._collect()

    @precondition(lambda self: self.leases)
    @rule(index=st.integers(0, 100), computed=st.booleans(), cancel_too=st.booleans())
    def release(self, index, computed, cancel_too):
        """A request ends; perhaps a waiter is cancelled in the same turn of the loop."""
        self.runner.run(self._release(index, computed, cancel_too))

    async def _release(self, index, computed, cancel_too):
        lease = self.leases.pop(index % len(self.leases))
        if computed:
            self.harness.admission.first_token(lease)
        self.harness.admission.release(lease)
        if cancel_too and self.tasks:
            self.tasks[index % len(self.tasks)].cancel()
        await settle()
        self._collect()

    @precondition(lambda self: self.tasks)
    @rule(index=st.integers(0, 100))
    def cancel(self, index):
        """A waiting client disconnects."""
        self.runner.run(self._cancel(index))

    async def _cancel(self, index):
        self.tasks[index % len(self.tasks)].cancel()
        await settle()
        self._collect()

    @rule(index=st.integers(0, 1), out=st.booleans())
    def hold(self, index, out):
        """A worker is held, or released."""
        self.runner.run(self._hold(index, out))

    async def _hold(self, index, out):
        worker = self.harness.workers[index]
        worker.hold("on purpose") if out else worker.unhold()
        self.harness.admission.grant()
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
        """Counters equal the leases held."""
        assert self.harness.streams == len(self.leases)
        assert self.harness.admission.waiting == len(self.tasks)
        assert all(w.incarnation.load.streams <= w.incarnation.load.capacity.max_streams for w in self.harness.workers)
        assert 0 <= self.harness.budget.running <= 3

    @invariant()
    def no_request_waits_beside_free_capacity(self):
        """Unless it waits for another worker or the budget."""
        if any(not w.unavailable and w.candidate() is not None for w in self.harness.workers):
            line = self.harness.admission._queues.get(KEY)
            assert line is None or line.next_turn() is None


TestAdmissionMachine = AdmissionMachine.TestCase
TestAdmissionMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


async def test_the_pool_increments_its_counter_only_for_changes():
    """A change of availability counts once."""
    harness = Harness(1)
    version = harness.pool.changes.version
    worker = harness.workers[0]
    worker.take_report(worker_pb2.WorkerReport(boot_id="w0-1", state=worker_pb2.WORKER_STATE_READY, running=5))
    assert harness.pool.changes.version == version
    worker.hold("x")
    await eventually(lambda: harness.pool.changes.version == version + 1)


class Stumbling:
    """A policy with a bug for one request only."""

    name = "stumbling"

    def __init__(self):
        self.sound = make_policy("least-load")

    def pick(self, snapshot, demand, rng):
        """Fails for a prompt of 13 tokens."""
        if demand.prompt_tokens == 13:
            raise ZeroDivisionError
        return self.sound.pick(snapshot, demand, rng)


async def test_an_error_in_placing_one_request_is_that_requests_alone():
    """The release of another lease, and the requests behind it, are unaffected."""
    harness = Harness(1)
    harness.admission._placer._policy = Stumbling()
    lease = await harness.ask()
    unlucky = asyncio.create_task(
        harness.admission.admit(PlacementRequest("r", KEY, "a", SIZE._replace(prompt_tokens=13)), None)
    )
    await settle()
    lucky = harness.ask("b")
    await settle()
    harness.admission.release(lease)
    with pytest.raises(ZeroDivisionError):
        await unlucky
    harness.admission.release(await lucky)
    assert (harness.admission.waiting, harness.streams) == (0, 0)
