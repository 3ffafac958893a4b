"""Workers that hang, fall silent, stall, and recover."""

import asyncio
import signal
import time
from types import SimpleNamespace

import grpc
import pytest
from prometheus_client import CollectorRegistry

from tests.balancer.conftest import QUICK_HEALTH
from tests.balancer.dispatch.ready_pool import ReadyPool
from tests.balancer.scripted_worker import Script, eventually, fault, text_of
from vllama_balancer.change_counter import ChangeCounter
from vllama_balancer.dispatch.retry import RetryPolicy
from vllama_balancer.errors import EngineFault
from vllama_balancer.fleet.events import Added, Changed, ProcessState
from vllama_balancer.gateway import Call
from vllama_balancer.metrics import Metrics
from vllama_balancer.routing.policy import Choice
from vllama_balancer.workers.attempt_errors import AttemptFailed, FailureKind
from vllama_balancer.workers.breaker import HealthSettings
from vllama_balancer.workers.health_checker import HealthChecker, is_stopped
from vllama_balancer.workers.lease import take_lease
from vllama_balancer.workers.load import Reservation
from vllama_balancer.workers.worker import Worker
from vllama_protos.v1 import generation_pb2, worker_pb2


async def running_on(fleet):
    """Starts a generation that pauses after three tokens; returns it and its worker."""
    for worker in fleet.workers:
        worker.script = Script(pause_after_tokens=3)
    task = asyncio.create_task(fleet.generate(max_tokens=6))
    await eventually(lambda: sum(worker.running for worker in fleet.workers) == 1)
    await eventually(lambda: all(worker.incarnation.load.prompt_tokens == 0 for worker in fleet.pool.workers()))
    return task, next(worker for worker in fleet.workers if worker.running)


def release_others(fleet, hung):
    """Resumes every worker but one."""
    for worker in fleet.workers:
        if worker is not hung:
            worker.script = Script()
            worker.go_on.set()


async def test_a_worker_that_is_silent_and_does_not_answer_loses_its_streams(make_fleet):
    """They continue elsewhere; its later output is not read."""
    fleet = await make_fleet(2)
    task, hung = await running_on(fleet)
    release_others(fleet, hung)
    hung.is_silent, hung.answers_describe = True, False
    reply = await task
    hung.go_on.set()
    assert reply.text == text_of(6)
    assert reply.finished.migrations == 1
    assert fleet.pool.find(hung.name).breaker.ejections_total == 1


async def test_a_worker_on_busy_processors_keeps_its_streams(make_fleet):
    """Its answers may be delayed for long, and it is checked repeatedly until it answers."""
    fleet = await make_fleet(2)
    for worker in fleet.pool.workers():
        worker.description.device.kind = "cpu"
    task, busy = await running_on(fleet)
    worker = fleet.pool.find(busy.name)
    busy.is_silent, busy.answers_describe = True, False
    asked = busy.describes
    # Longer than the silence and the answer that any other worker would have been given.
    await eventually(lambda: busy.describes > asked)
    await asyncio.sleep(QUICK_HEALTH.streaming_answer_seconds + QUICK_HEALTH.answer_seconds)
    assert worker.unavailable == ""
    busy.is_silent, busy.answers_describe = False, True
    busy.go_on.set()
    reply = await task
    assert (reply.text, reply.finished.migrations) == (text_of(6), 0)


async def test_a_stopped_process_is_not_asked(make_fleet):
    """The kernel reports it at once, however busy the processors are."""
    fleet = await make_fleet(2)
    stopped = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        stopped.send_signal(signal.SIGSTOP)
        await eventually(lambda: is_stopped(stopped.pid))
        task, hung = await running_on(fleet)
        worker = fleet.pool.find(hung.name)
        worker.description.device.kind = "cpu"
        release_others(fleet, hung)
        worker.process_changed(Changed(hung.name, ProcessState.RUNNING, pid=stopped.pid))
        hung.is_silent, hung.answers_describe = True, False
        reply = await task
        hung.go_on.set()
        assert (reply.text, reply.finished.migrations) == (text_of(6), 1)
    finally:
        stopped.kill()
        await stopped.wait()


async def test_a_stopped_process_loses_requests_before_their_first_token(make_fleet):
    """They have no output, and would get none."""
    fleet = await make_fleet(2, health=HealthSettings(check_interval_seconds=0.02))
    stopped = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        stopped.send_signal(signal.SIGSTOP)
        await eventually(lambda: is_stopped(stopped.pid))
        for worker in fleet.workers:
            worker.script = Script(pause_after_tokens=0)
        task = asyncio.create_task(fleet.generate(max_tokens=6))
        await eventually(lambda: sum(worker.running for worker in fleet.workers) == 1)
        hung = next(worker for worker in fleet.workers if worker.running)
        release_others(fleet, hung)
        fleet.pool.find(hung.name).process_changed(Changed(hung.name, ProcessState.RUNNING, pid=stopped.pid))
        hung.is_silent, hung.answers_describe = True, False
        async with asyncio.timeout(HealthSettings().silence_seconds):
            assert (await task).text == text_of(6)
        hung.go_on.set()
    finally:
        stopped.kill()
        await stopped.wait()


async def test_a_process_that_is_stopped_during_the_check_is_noticed(make_fleet):
    """A long timeout does not delay the verdict."""
    fleet = await make_fleet(2)
    running = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        task, hung = await running_on(fleet)
        fleet.pool.find(hung.name).description.device.kind = "cpu"
        release_others(fleet, hung)
        fleet.pool.find(hung.name).process_changed(Changed(hung.name, ProcessState.RUNNING, pid=running.pid))
        asked, hung.is_silent, hung.answers_describe = hung.describes, True, False
        await eventually(lambda: hung.describes > asked)
        running.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(HealthSettings().shared_answer_seconds / 2):
            reply = await task
        hung.go_on.set()
        assert (reply.text, reply.finished.migrations) == (text_of(6), 1)
    finally:
        running.kill()
        await running.wait()


async def test_a_hung_worker_recovers_after_a_probe(make_fleet):
    """As soon as it has generated one real token."""
    fleet = await make_fleet(2)
    task, hung = await running_on(fleet)
    release_others(fleet, hung)
    hung.is_silent, hung.answers_describe = True, False
    await task
    hung.is_silent, hung.answers_describe = False, True
    hung.go_on.set()
    await fleet.all_available()
    assert hung.requests[-1].request_id == f"probe-{hung.name}"
    assert hung.requests[-1].sampling.max_tokens == 1


async def test_a_worker_whose_watch_alone_stops_stays_in(make_fleet):
    """It answers the liveness check, and its streams continue."""
    fleet = await make_fleet(1)
    task, quiet = await running_on(fleet)
    quiet.is_silent = True
    seen = fleet.pool.find("w0").last_seen_at
    await eventually(lambda: fleet.pool.find("w0").last_seen_at > seen + 0.5)
    assert fleet.pool.find("w0").unavailable == ""
    quiet.go_on.set()
    assert (await task).text == text_of(6)


async def test_a_stalled_engine_loses_its_streams(make_fleet):
    """Its reports come, and show that it makes no step."""
    fleet = await make_fleet(2)
    task, stalled = await running_on(fleet)
    release_others(fleet, stalled)
    stalled.report.last_step_age.FromNanoseconds(int(5e9))
    stalled.push()
    reply = await task
    assert (reply.text, reply.finished.migrations) == (text_of(6), 1)
    assert fleet.pool.find(stalled.name).breaker.ejections_total == 1


async def test_an_idle_hung_worker_is_found_before_a_request_is(make_fleet):
    """No request waits for the discovery."""
    fleet = await make_fleet(2)
    fleet.workers[0].is_silent, fleet.workers[0].answers_describe = True, False
    await eventually(lambda: "hangs" in fleet.pool.find("w0").unavailable)
    assert (await fleet.generate()).text == text_of(8)


async def test_a_failed_probe_keeps_a_worker_out(make_fleet):
    """For twice as long each time."""
    fleet = await make_fleet(2)
    fleet.workers[0].script = Script(always=fault("still broken"))
    for _ in range(12):
        await fleet.generate()
    worker = fleet.pool.find("w0")
    await eventually(lambda: "a probe failed" in worker.unavailable)
    await eventually(lambda: sum(r.request_id == "probe-w0" for r in fleet.workers[0].requests) >= 3)
    assert worker.unavailable
    fleet.workers[0].script = Script()
    await fleet.all_available()


async def test_a_lost_connection_is_followed_by_a_probe_in_the_same_incarnation(make_fleet):
    """The same boot id after a broken connection is no fresh start."""
    fleet = await make_fleet(1)
    worker = fleet.pool.find("w0")
    worker.disconnected("a cable was pulled")
    assert "not connected" in worker.unavailable
    await fleet.all_available()
    assert [request.request_id for request in fleet.workers[0].requests] == ["probe-w0"]


async def test_a_worker_that_only_embeds_is_probed_with_a_text(make_fleet):
    """It generates no tokens."""
    fleet = await make_fleet(1)
    worker = fleet.pool.find("w0")
    del worker.description.capabilities[0]
    worker.mark_lost("gone for a moment")
    await fleet.all_available()
    assert fleet.workers[0].requests == []


async def test_a_unary_call_on_a_worker_that_hangs_is_retried_elsewhere(make_fleet):
    """Abandoning a lease cancels any kind of call."""
    fleet = await make_fleet(2)
    for worker in fleet.workers:
        worker.script = Script(pause_unary=True)
    asked = generation_pb2.DetokenizeRequest(model="m", token_ids=[65])
    task = asyncio.create_task(fleet.dispatcher.detokenize(asked, Call("me")))
    await eventually(lambda: sum(worker.running for worker in fleet.workers) == 1)
    hung = next(worker for worker in fleet.workers if worker.running)
    release_others(fleet, hung)
    hung.is_silent, hung.answers_describe = True, False
    assert (await task).text == "A"
    hung.go_on.set()


class ProbedWorker:
    """An ejected worker whose probe ends when `answers` is set; a HealthChecker needs nothing else of it."""

    name, address, is_connected, incarnation = "worker-0", "unix:/worker-0", True, None
    description, last_seen_at = None, 0.0

    def __init__(self):
        self.answers = asyncio.Event()
        self.is_probed = asyncio.Event()
        self.report = worker_pb2.WorkerReport(state=worker_pb2.WORKER_STATE_READY)
        self.breaker = SimpleNamespace(is_open=True, retry_in_seconds=0)
        self.channel = SimpleNamespace(generation=SimpleNamespace(Generate=self._generate))

    async def _generate(self, request, **options):
        self.is_probed.set()
        await self.answers.wait()
        for response in ():
            yield response

    def forgive_silence(self, seconds):
        """It is never silent."""

    def mark_recovered(self):
        """Leaves the breaker open: the next check probes again."""


@pytest.mark.parametrize("turns", range(4))
async def test_a_checker_that_is_cancelled_as_its_probe_ends_stops(turns):
    """A pool that closes in that turn of the event loop would wait for ever for a checker that goes on."""
    worker = ProbedWorker()
    checker = HealthChecker(worker, HealthSettings(check_interval_seconds=0.001), time.monotonic, lambda _: False)
    running = asyncio.create_task(checker.run())
    await worker.is_probed.wait()
    worker.answers.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    _, pending = await asyncio.wait({running}, timeout=1)
    running.cancel()
    await asyncio.wait({running})
    assert not pending


class ScriptedProbe:
    """A worker without a connection whose probe ends as a test says."""

    def __init__(self):
        self.is_probed, self.end = asyncio.Event(), asyncio.get_running_loop().create_future()
        self.worker = Worker(Added("w", "unix:/w"), self._channel(), HealthSettings(), ChangeCounter(), time.monotonic)
        self.begin("one")
        self.checker = HealthChecker(self.worker, HealthSettings(), time.monotonic, lambda _: False)

    def begin(self, boot_id):
        """Begins an incarnation that is ready."""
        self.worker.describe(worker_pb2.DescribeResponse(boot_id=boot_id, models=["m"], max_streams=2))
        self.worker.take_report(worker_pb2.WorkerReport(boot_id=boot_id, state=worker_pb2.WORKER_STATE_READY))

    async def probe(self):
        """Begins a probe that is due; returns its task."""
        self.worker.breaker.eject("an earlier reason")
        self.worker.breaker._open_until = 0.0
        checking = asyncio.create_task(self.checker.check())
        await self.is_probed.wait()
        return checking

    def _channel(self):
        return SimpleNamespace(generation=SimpleNamespace(Generate=self._generate))

    async def _generate(self, request, **options):
        self.is_probed.set()
        await self.end
        for response in ():
            yield response


def grpc_error(code):
    """A failed call."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="it says")


async def test_a_probe_of_an_earlier_incarnation_admits_no_later_one():
    """That one was ejected for reasons of its own."""
    probe = ScriptedProbe()
    checking = await probe.probe()
    probe.begin("two")
    probe.worker.breaker.eject("a reason of its own")
    probe.end.set_result(None)
    await checking
    assert probe.worker.breaker.reason == "a reason of its own"


async def test_a_probe_of_an_earlier_incarnation_ejects_no_later_one():
    """The worker was restarted during the probe, which is why that failed."""
    probe = ScriptedProbe()
    checking = await probe.probe()
    probe.begin("two")
    probe.end.set_exception(grpc_error(grpc.StatusCode.UNAVAILABLE))
    await checking
    assert not probe.worker.unavailable


async def test_a_full_worker_has_not_failed_its_probe():
    """Other balancers keep it busy: it is probed again soon, however often."""
    probe = ScriptedProbe()
    checking = await probe.probe()
    probe.end.set_exception(grpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED))
    await checking
    assert probe.worker.breaker.reason == "an earlier reason"
    assert 0 < probe.worker.breaker.retry_in_seconds <= HealthSettings().first_ejection_seconds
    probe.worker.breaker.eject("the second ejection")
    assert probe.worker.breaker.retry_in_seconds <= 2 * HealthSettings().first_ejection_seconds


async def test_a_worker_that_refuses_is_asked_no_more():
    """Its report of the drain may take a moment."""
    probe = ScriptedProbe()
    probe.worker.mark_draining()
    assert probe.worker.unavailable == "is draining"
    probe.worker.report.state = worker_pb2.WORKER_STATE_STARTING
    probe.worker.mark_draining()
    assert probe.worker.unavailable == "is starting"


@pytest.mark.parametrize("kind", list(FailureKind))
async def test_a_failure_of_an_earlier_incarnation_says_nothing_about_a_later_one(kind):
    """However many there are."""
    probe = ScriptedProbe()
    worker = probe.worker
    leases = [take_lease(worker, Choice("w", "test"), Reservation(1, 1)) for _ in range(5)]
    probe.begin("two")
    policy = RetryPolicy(ReadyPool(1), Metrics(CollectorRegistry()))
    for lease in leases:
        policy.penalise_worker(lease, AttemptFailed(kind, EngineFault("it says")))
    policy.close()
    assert not worker.unavailable
