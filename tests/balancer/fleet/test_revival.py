"""What is told after a death, and when the next life may begin."""

from __future__ import annotations

import asyncio

import pytest

from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.fleet.restarts import EXIT_BAD_FLAGS, RestartSettings
from vllama_balancer.fleet.revival import Revival


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
    revival = Revival("w", RestartSettings(first_delay_seconds=0.01), told)
    revival.begin()
    await revival.after_death(-9, 5.0, "it was killed")
    assert told.news == [(ProcessState.RESTARTING, "it was killed", 0.01)]
    assert revival.restarts == 1


async def test_a_worker_that_is_given_up_waits_to_be_asked(told: Told) -> None:
    """It was not started again, so it does not count, and an order of the operator brings it back."""
    revival = Revival("w", RestartSettings(), told)
    revival.begin()
    waiting = asyncio.create_task(revival.after_death(EXIT_BAD_FLAGS, 0.1, "no such flag"))
    await until_told(told, 1)
    assert told.news == [(ProcessState.FAILED, "refused its flags: no such flag", None)]
    assert revival.restarts == 0 and not waiting.done()
    revival.ask_anew()
    await waiting


async def test_who_asks_does_not_wait_for_the_pause(told: Told) -> None:
    """A restart by order cuts a pause short, however long it has grown."""
    revival = Revival("w", RestartSettings(first_delay_seconds=3600), told)
    revival.begin()
    waiting = asyncio.create_task(revival.after_death(-9, 5.0, "it was killed"))
    await until_told(told, 1)
    revival.ask()
    await waiting


async def test_a_death_that_was_asked_for_is_no_death(told: Told) -> None:
    """A worker that is being restarted is told as that, and its judge hears nothing of it."""
    revival = Revival("w", RestartSettings(most_early_deaths=1), told)
    revival.ask_anew()
    await revival.after_death(-15, 5.0, "it was killed")
    assert told.news == [(ProcessState.RESTARTING, "is being restarted", None)]
    revival.begin()
    giving_up = asyncio.create_task(revival.after_death(-9, 5.0, "it was killed"))
    await until_told(told, 2)
    assert told.news[-1][0] is ProcessState.FAILED
    revival.ask()
    await giving_up
