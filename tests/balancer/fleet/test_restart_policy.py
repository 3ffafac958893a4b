"""What follows a worker's death: pauses that double, and an end to trying.

What is told after a death, and when the next life may begin.
"""

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
    """One second, two, four; deaths in between healthy enough not to be a loop."""
    judge = RestartPolicy(RestartSettings(max_early_exits=100))
    assert [judge.after_exit(3, 0.0) for _ in range(8)] == [Retry(s) for s in (1, 2, 4, 8, 16, 32, 60, 60)]


def test_a_healthy_life_is_a_clean_slate() -> None:
    """After a minute of health the pauses and counts start over."""
    judge = RestartPolicy(RestartSettings())
    for _ in range(4):
        judge.after_exit(-9, 1.0)
    assert judge.after_exit(-9, 61.0) == Retry(1)
    assert judge.after_exit(-9, 1.0) == Retry(2)


def test_five_early_deaths_are_a_crash_loop() -> None:
    """The fifth in a row is the last."""
    judge = RestartPolicy(RestartSettings())
    assert all(isinstance(judge.after_exit(-11, 5.0), Retry) for _ in range(4))
    assert judge.after_exit(-11, 5.0) == GiveUp("died 5 times, each within 60 s")


def test_three_failed_starts_are_enough() -> None:
    """A start that failed three times in a row will fail again; another death between them starts the count over."""
    judge = RestartPolicy(RestartSettings())
    judge.after_exit(1, 5.0)
    judge.after_exit(1, 5.0)
    assert isinstance(judge.after_exit(-9, 5.0), Retry)
    judge = RestartPolicy(RestartSettings())
    verdicts = [judge.after_exit(1, 5.0) for _ in range(3)]
    assert verdicts[-1] == GiveUp("failed to start 3 times")


def test_bad_flags_are_final() -> None:
    """They will be as bad the next time."""
    assert RestartPolicy(RestartSettings()).after_exit(2, 0.5) == GiveUp("refused its flags")


def test_a_worker_that_was_told_to_leave_is_no_crash() -> None:
    """Status 0 is followed by a start, however often."""
    judge = RestartPolicy(RestartSettings())
    assert all(isinstance(judge.after_exit(0, 1.0), Retry) for _ in range(20))


class Told:
    """Keeps what was told."""

    def __init__(self) -> None:
        self.news: list[tuple[ProcessState, str, float | None]] = []

    def __call__(self, state: ProcessState, reason: str, delay_seconds: float | None) -> None:
        """Takes one piece of news."""
        self.news.append((state, reason, delay_seconds))


@pytest.fixture
def told() -> Told:
    """Nothing yet."""
    return Told()


async def until_told(told: Told, count: int) -> None:
    """Waits for news."""
    async with asyncio.timeout(10):
        while len(told.news) < count:
            await asyncio.sleep(0)


async def test_a_death_is_told_with_its_cause_and_the_pause(told: Told) -> None:
    """Who looks at the fleet sees why, and when it goes on."""
    revival = RestartBackoff("w", RestartSettings(initial_delay_seconds=0.01), told)
    revival.begin()
    await revival.after_exit(-9, 5.0, "it was killed")
    assert told.news == [(ProcessState.RESTARTING, "it was killed", 0.01)]
    assert revival.restarts == 1


async def test_a_worker_that_is_given_up_waits_to_be_asked(told: Told) -> None:
    """It was not started again, so it does not count, and an order of the operator brings it back."""
    revival = RestartBackoff("w", RestartSettings(), told)
    revival.begin()
    waiting = asyncio.create_task(revival.after_exit(EXIT_BAD_FLAGS, 0.1, "no such flag"))
    await until_told(told, 1)
    assert told.news == [(ProcessState.FAILED, "refused its flags: no such flag", None)]
    assert revival.restarts == 0 and not waiting.done()
    revival.restart_now()
    await waiting


async def test_who_asks_does_not_wait_for_the_pause(told: Told) -> None:
    """A restart by order cuts a pause short, however long it has grown."""
    revival = RestartBackoff("w", RestartSettings(initial_delay_seconds=3600), told)
    revival.begin()
    waiting = asyncio.create_task(revival.after_exit(-9, 5.0, "it was killed"))
    await until_told(told, 1)
    revival.skip_wait()
    await waiting


async def test_a_death_that_was_asked_for_is_no_death(told: Told) -> None:
    """A worker that is being restarted is told as that, and its judge hears nothing of it."""
    revival = RestartBackoff("w", RestartSettings(max_early_exits=1), told)
    revival.restart_now()
    await revival.after_exit(-15, 5.0, "it was killed")
    assert told.news == [(ProcessState.RESTARTING, "is being restarted", None)]
    revival.begin()
    giving_up = asyncio.create_task(revival.after_exit(-9, 5.0, "it was killed"))
    await until_told(told, 2)
    assert told.news[-1][0] is ProcessState.FAILED
    revival.skip_wait()
    await giving_up
