"""Restarts after a worker's exit: pauses that double, giving up, and the reports meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.fleet.restart_policy import (
    EXIT_BAD_FLAGS,
    GiveUp,
    RestartBackoff,
    RestartPolicy,
    RestartSettings,
    Retry,
)


def test_pauses_double_up_to_a_minute() -> None:
    """One second, two, four, with no limit on crashes."""
    policy = RestartPolicy(RestartSettings(max_early_exits=100))
    assert [policy.after_exit(3, 0.0) for _ in range(8)] == [Retry(s) for s in (1, 2, 4, 8, 16, 32, 60, 60)]


def test_a_healthy_minute_is_a_clean_slate() -> None:
    """After it the pauses and counts start over."""
    policy = RestartPolicy(RestartSettings())
    for _ in range(4):
        policy.after_exit(-9, 1.0)
    assert policy.after_exit(-9, 61.0) == Retry(1)
    assert policy.after_exit(-9, 1.0) == Retry(2)


def test_five_early_exits_are_a_crash_loop() -> None:
    """The fifth in a row is the last."""
    policy = RestartPolicy(RestartSettings())
    assert all(isinstance(policy.after_exit(-11, 5.0), Retry) for _ in range(4))
    assert policy.after_exit(-11, 5.0) == GiveUp("died 5 times, each within 60 s")


def test_three_failed_starts_are_enough() -> None:
    """A start that failed three times in a row will fail again; another exit between them starts the count over."""
    policy = RestartPolicy(RestartSettings())
    policy.after_exit(1, 5.0)
    policy.after_exit(1, 5.0)
    assert isinstance(policy.after_exit(-9, 5.0), Retry)
    policy = RestartPolicy(RestartSettings())
    verdicts = [policy.after_exit(1, 5.0) for _ in range(3)]
    assert verdicts[-1] == GiveUp("failed to start 3 times")


def test_bad_flags_are_final() -> None:
    """Another start would fail as well."""
    assert RestartPolicy(RestartSettings()).after_exit(2, 0.5) == GiveUp("refused its flags")


def test_a_clean_exit_is_no_crash() -> None:
    """Status 0 is followed by a start, however often."""
    policy = RestartPolicy(RestartSettings())
    assert all(isinstance(policy.after_exit(0, 1.0), Retry) for _ in range(20))


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
    await backoff.after_exit(-9, 5.0, "it was killed")
    assert reports.seen == [(ProcessState.RESTARTING, "it was killed", 0.01)]
    assert backoff.restarts == 1


async def test_a_worker_that_is_given_up_waits_for_a_request(reports: Reports) -> None:
    """It was not started again, so that is not counted; a restart by the operator starts it."""
    backoff = RestartBackoff("w", RestartSettings(), reports)
    backoff.begin()
    waiting = asyncio.create_task(backoff.after_exit(EXIT_BAD_FLAGS, 0.1, "no such flag"))
    await until_reported(reports, 1)
    assert reports.seen == [(ProcessState.FAILED, "refused its flags: no such flag", None)]
    assert backoff.restarts == 0 and not waiting.done()
    backoff.restart_now()
    await waiting


async def test_a_requested_restart_skips_the_pause(reports: Reports) -> None:
    """It ends a pause, however long that has grown."""
    backoff = RestartBackoff("w", RestartSettings(initial_delay_seconds=3600), reports)
    backoff.begin()
    waiting = asyncio.create_task(backoff.after_exit(-9, 5.0, "it was killed"))
    await until_reported(reports, 1)
    backoff.skip_wait()
    await waiting


async def test_a_requested_exit_is_not_counted(reports: Reports) -> None:
    """A worker that is being restarted is reported as such, and its policy does not count it."""
    backoff = RestartBackoff("w", RestartSettings(max_early_exits=1), reports)
    backoff.restart_now()
    await backoff.after_exit(-15, 5.0, "it was killed")
    assert reports.seen == [(ProcessState.RESTARTING, "is being restarted", None)]
    backoff.begin()
    giving_up = asyncio.create_task(backoff.after_exit(-9, 5.0, "it was killed"))
    await until_reported(reports, 2)
    assert reports.seen[-1][0] is ProcessState.FAILED
    backoff.skip_wait()
    await giving_up
