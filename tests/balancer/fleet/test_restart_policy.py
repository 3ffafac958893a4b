"""Restarts after a worker's exit: pauses that double, giving up, and the reports meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from vllama_balancer.fleet.events import Deaths, ProcessState
from vllama_balancer.fleet.process import Exit
from vllama_balancer.fleet.restart_policy import (
    EXIT_BAD_FLAGS,
    GiveUp,
    RestartBackoff,
    RestartPolicy,
    RestartSettings,
    Retry,
)


def died(status: int, cause: str = "", *, ready: bool = False) -> Exit:
    """An exit without a request, of a process that had been ready or not."""
    return Exit(status, cause, was_ready=ready)


CRASH = died(-11, ready=True)
FAILED_START = died(1)


def test_a_worker_that_was_ready_is_always_started_again() -> None:
    """One second, two, four, up to a minute, with no limit on crashes."""
    policy = RestartPolicy(RestartSettings())
    assert [policy.after_exit(CRASH, 5.0) for _ in range(9)] == [Retry(s) for s in (1, 2, 4, 8, 16, 32, 60, 60, 60)]


def test_a_healthy_minute_is_a_clean_slate() -> None:
    """After it the pauses start over."""
    policy = RestartPolicy(RestartSettings())
    for _ in range(4):
        policy.after_exit(CRASH, 1.0)
    assert policy.after_exit(CRASH, 61.0) == Retry(1)
    assert policy.after_exit(CRASH, 1.0) == Retry(2)


def test_five_crashes_during_starts_are_a_crash_loop() -> None:
    """The fifth in a row is the last, however long each start takes."""
    policy = RestartPolicy(RestartSettings())
    assert all(isinstance(policy.after_exit(died(-11), 90.0), Retry) for _ in range(4))
    assert policy.after_exit(died(-11), 90.0) == GiveUp("died 5 times before it was ready")


def test_three_failed_starts_are_enough() -> None:
    """A start that failed three times in a row will fail again; a ready worker between them starts the count over."""
    policy = RestartPolicy(RestartSettings())
    assert all(isinstance(policy.after_exit(FAILED_START, 90.0), Retry) for _ in range(2))
    assert policy.after_exit(FAILED_START, 90.0) == GiveUp("failed to start 3 times")
    policy = RestartPolicy(RestartSettings())
    for end in (FAILED_START, FAILED_START, CRASH, FAILED_START, FAILED_START):
        assert isinstance(policy.after_exit(end, 5.0), Retry)


def test_one_failed_start_is_enough_for_a_request() -> None:
    """A request that waits for its first start gets the cause at once; a worker that served is given more tries."""
    policy = RestartPolicy(RestartSettings(fail_fast=True))
    assert policy.after_exit(FAILED_START, 5.0) == GiveUp("failed to start")
    policy = RestartPolicy(RestartSettings(fail_fast=True))
    for end in (CRASH, FAILED_START, FAILED_START):
        assert isinstance(policy.after_exit(end, 5.0), Retry)


def test_a_shortage_on_this_machine_is_no_failed_start() -> None:
    """Without a descriptor to spare no process can be made, however often that is tried."""
    policy = RestartPolicy(RestartSettings(max_failed_starts=1))
    assert [policy.after_shortage() for _ in range(8)] == [Retry(s) for s in (1, 2, 4, 8, 16, 32, 60, 60)]


def test_bad_flags_are_final() -> None:
    """Another start would fail as well."""
    assert RestartPolicy(RestartSettings()).after_exit(died(2), 0.5) == GiveUp("refused its flags")


def test_a_clean_exit_is_no_crash() -> None:
    """Status 0 is followed by a start, however often."""
    policy = RestartPolicy(RestartSettings())
    assert all(isinstance(policy.after_exit(died(0), 1.0), Retry) for _ in range(20))


class Reports:
    """Keeps the reports."""

    def __init__(self) -> None:
        self.seen: list[tuple[ProcessState, str, float | None]] = []

    def __call__(self, state: ProcessState, reason: str, delay_seconds: float | None) -> None:
        self.seen.append((state, reason, delay_seconds))


@pytest.fixture
def reports() -> Reports:
    """None yet."""
    return Reports()


async def until_reported(reports: Reports, count: int) -> None:
    """Waits for so many reports."""
    async with asyncio.timeout(10):
        while len(reports.seen) < count:
            await asyncio.sleep(0)


async def test_an_exit_is_reported_with_its_cause_and_the_pause(reports: Reports) -> None:
    """The fleet shows why it ended, and when it starts again."""
    backoff = RestartBackoff("w", RestartSettings(initial_delay_seconds=0.01), reports)
    backoff.begin()
    await backoff.after_exit(died(-9, "it was killed"), 5.0)
    assert reports.seen == [(ProcessState.RESTARTING, "it was killed", 0.01)]
    assert backoff.restarts == 1 and backoff.deaths == Deaths(1, "it was killed")


async def test_a_cause_that_returns_is_counted(reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    """The log says how many deaths in a row had one cause, whatever numbers it holds."""
    backoff = RestartBackoff("w", RestartSettings(initial_delay_seconds=0.001, max_delay_seconds=0.001), reports)
    for cause in ("no memory at 0x51", "it was killed", "CUDA error 7 in 0x7f", "CUDA error 7 in 0x8a"):
        backoff.begin()
        await backoff.after_exit(died(3, cause, ready=True), 5.0)
    assert backoff.deaths == Deaths(4, "CUDA error 7 in 0x8a")
    in_a_row = ["death 2 in a row by this cause" in record.getMessage() for record in caplog.records]
    assert in_a_row == [False, False, False, True]


async def test_a_worker_that_is_given_up_waits_for_a_request(reports: Reports) -> None:
    """It was not started again, so that is not counted; a restart by the operator starts it."""
    backoff = RestartBackoff("w", RestartSettings(revive_seconds=3600), reports)
    backoff.begin()
    waiting = asyncio.create_task(backoff.after_exit(died(EXIT_BAD_FLAGS, "no such flag"), 0.1))
    await until_reported(reports, 1)
    assert reports.seen == [(ProcessState.FAILED, "refused its flags: no such flag", 3600)]
    assert backoff.restarts == 0 and not waiting.done()
    backoff.restart_now()
    await waiting


async def test_time_revives_a_worker_that_was_given_up(reports: Reports) -> None:
    """Its cause may have gone; one more failed start gives it up again."""
    settings = RestartSettings(max_failed_starts=1, revive_seconds=0.01)
    backoff = RestartBackoff("w", settings, reports)
    for _ in range(2):
        backoff.begin()
        await backoff.after_exit(died(1, "no memory"), 5.0)
    assert [state for state, _, _ in reports.seen] == [ProcessState.FAILED, ProcessState.FAILED]
    assert backoff.restarts == 2


async def test_a_requested_restart_skips_the_pause(reports: Reports) -> None:
    """It ends a pause, however long that has grown."""
    backoff = RestartBackoff("w", RestartSettings(initial_delay_seconds=3600), reports)
    backoff.begin()
    waiting = asyncio.create_task(backoff.after_exit(died(-9), 5.0))
    await until_reported(reports, 1)
    backoff.skip_wait()
    await waiting


async def test_a_requested_exit_is_not_counted(reports: Reports) -> None:
    """A worker that is being restarted is reported as such, and its policy does not count it."""
    backoff = RestartBackoff("w", RestartSettings(max_crashed_starts=1), reports)
    backoff.restart_now()
    await backoff.after_exit(died(-15), 5.0)
    assert reports.seen == [(ProcessState.RESTARTING, "is being restarted", None)]
    assert backoff.deaths == Deaths()
    backoff.begin()
    giving_up = asyncio.create_task(backoff.after_exit(died(-9), 5.0))
    await until_reported(reports, 2)
    assert reports.seen[-1][0] is ProcessState.FAILED
    backoff.skip_wait()
    await giving_up
