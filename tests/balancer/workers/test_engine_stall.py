"""Which time without a step counts against an engine: not idleness, and not the time of a frozen machine."""

from __future__ import annotations

import asyncio

import pytest

from vllama_balancer.change_counter import ChangeCounter
from vllama_balancer.fleet.events import Added
from vllama_balancer.routing.policy import Choice
from vllama_balancer.workers.breaker import HealthSettings
from vllama_balancer.workers.health_checker import HealthChecker
from vllama_balancer.workers.lease import Lease, take_lease
from vllama_balancer.workers.load import Reservation
from vllama_balancer.workers.worker import Worker
from vllama_protos.v1 import worker_pb2


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.readings = 0

    def __call__(self) -> float:
        self.readings += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Stands still."""
    return Clock()


@pytest.fixture
def worker(clock: Clock) -> Worker:
    """A worker that is ready and idle; it has no connection."""
    made = Worker(Added("w", "unix:/w", ("m:latest",), pid=1), None, HealthSettings(), ChangeCounter(), clock)
    made.describe(worker_pb2.DescribeResponse(boot_id="1", models=["m:latest"]))
    made.take_report(report_of(0))
    return made


def report_of(running: int, step_age: float = 0.0) -> worker_pb2.WorkerReport:
    """A report of a ready worker."""
    report = worker_pb2.WorkerReport(boot_id="1", state=worker_pb2.WORKER_STATE_READY, running=running)
    report.last_step_age.FromNanoseconds(int(step_age * 1e9))
    return report


def reports(worker: Worker, clock: Clock, seconds: int, step_age: float) -> None:
    """Reports come each second and say how old the last step is, at first `step_age`."""
    for second in range(seconds):
        worker.take_report(report_of(1, step_age + second))
        clock.now += 1.0


def lease(worker: Worker) -> Lease:
    """A request of this balancer on the worker."""
    return take_lease(worker, Choice("w", "least-load"), Reservation(10, 20))


def test_an_engine_that_was_idle_is_not_hanging(worker: Worker, clock: Clock) -> None:
    """Its last step is as old as its last request; what counts is the time since this one came."""
    clock.now += 0.5
    lease(worker)
    clock.now += 1.0
    worker.take_report(report_of(1, step_age=300.0))
    assert worker.step_age_seconds == 1.0


def test_an_engine_without_a_step_since_its_oldest_request_is(worker: Worker, clock: Clock) -> None:
    """Later requests do not make it younger."""
    lease(worker)
    reports(worker, clock, 12, step_age=300.0)
    lease(worker)
    assert worker.step_age_seconds == 12.0


def test_a_step_since_then_counts(worker: Worker, clock: Clock) -> None:
    """The age is the smaller of both."""
    lease(worker)
    reports(worker, clock, 12, step_age=-10.0)
    assert worker.step_age_seconds == 1.0


def test_requests_of_others_say_nothing(worker: Worker, clock: Clock) -> None:
    """This balancer does not know since when they run, nor does a call that computes nothing."""
    lease(worker).is_unmetered = True
    lease(worker).needs_liveness_check = True
    reports(worker, clock, 12, step_age=300.0)
    assert worker.step_age_seconds == 0.0


def test_an_idle_engine_has_no_step_to_make(worker: Worker, clock: Clock) -> None:
    """Its report says that nothing runs."""
    lease(worker)
    clock.now += 12.0
    worker.take_report(report_of(0, step_age=300.0))
    assert worker.step_age_seconds == 0.0


def test_an_engine_before_its_first_step_is_not_judged(worker: Worker, clock: Clock) -> None:
    """The field is unset until then."""
    lease(worker)
    reports(worker, clock, 12, step_age=0.0)
    worker.report.ClearField("last_step_age")
    assert worker.step_age_seconds == 0.0


def test_a_frozen_worker_is_not_an_engine_that_hangs(worker: Worker, clock: Clock) -> None:
    """Nothing came from it for as long: it could not make a step. An engine that makes none afterwards hangs."""
    lease(worker)
    reports(worker, clock, 3, step_age=-1.0)
    clock.now += 60.0
    worker.take_report(report_of(1, step_age=62.0))
    assert worker.step_age_seconds == 0.0
    reports(worker, clock, 11, step_age=62.0)
    assert worker.step_age_seconds == 11.0


def test_what_was_on_its_way_hides_no_freeze(worker: Worker, clock: Clock) -> None:
    """An event from before the freeze may be read just before the first report after it."""
    lease(worker)
    clock.now += 60.0
    worker.touch()
    worker.take_report(report_of(1, step_age=60.0))
    assert worker.step_age_seconds == 0.0


@pytest.mark.parametrize(("jump", "is_out"), [(0.0, True), (60.0, False)])
async def test_a_balancer_that_was_frozen_itself_has_heard_nothing_either(
    worker: Worker, clock: Clock, jump: float, is_out: bool
) -> None:
    """What its own check came late by is no silence of the worker, even if that is still stopped."""
    settings = HealthSettings(check_interval_seconds=0.02)
    checker = HealthChecker(worker, settings, clock, lambda _: False, is_stopped=lambda _: True)
    clock.now += 0.0 if jump else settings.silence_seconds
    checking = asyncio.create_task(checker.run())
    await asyncio.sleep(0)
    clock.now += jump
    before = clock.readings
    async with asyncio.timeout(10):
        while clock.readings < before + 6:
            await asyncio.sleep(0.001)
    checking.cancel()
    await asyncio.wait({checking})
    assert worker.breaker.is_open is is_out


async def test_a_process_that_was_stopped_blames_no_request(worker: Worker, clock: Clock) -> None:
    """A signal stopped it."""
    aboard = lease(worker)
    clock.now += 1.0
    checker = HealthChecker(worker, HealthSettings(), clock, lambda _: False, is_stopped=lambda _: True)
    await checker.check()
    assert aboard.abandoned and not aboard.is_blamed
