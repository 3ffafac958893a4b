"""The watch for an engine that hangs, in virtual time."""

import asyncio

import pytest

from vllama_server.engine.protocol import EngineLoad
from vllama_server.watchdog import Watchdog


class Script:
    """A script of loads: one for each measurement, a second apart."""

    def __init__(self, *loads):
        self.loads = list(loads)
        self.now = 0.0

    def measure(self):
        """Returns the next load; raises after the last one."""
        if not self.loads:
            raise StopLooking
        return self.loads.pop(0)

    def clock(self):
        """The time now."""
        return self.now

    async def sleep(self, seconds):
        """Lets time pass."""
        self.now += seconds


class StopLooking(Exception):
    """The script has ended without a stall."""


def watchdog(hours, stall_seconds=4.0):
    """Watches with the script's own clock."""
    return Watchdog(hours.measure, stall_seconds, clock=hours.clock, sleep=hours.sleep)


def busy(age):
    """One stream runs and the last step is so old."""
    return EngineLoad(running=1, last_step_age_seconds=age)


IDLE = EngineLoad(last_step_age_seconds=1000.0)


async def test_work_without_a_step_is_a_stall():
    """The error says for how long, and which flag sets the limit."""
    hours = Script(*(busy(float(age)) for age in range(10)))
    error = await watchdog(hours).stalled()
    assert "4.0 s" in str(error)
    assert "--stall-seconds" in str(error)
    assert hours.now == 4.0


async def test_an_idle_engine_does_not_stall():
    """It makes no step because it has nothing to do."""
    with pytest.raises(StopLooking):
        await watchdog(Script(*[IDLE] * 20)).stalled()


async def test_the_first_request_after_a_pause_is_no_stall():
    """The old step does not count against work that has just come."""
    hours = Script(IDLE, busy(1000.0), busy(1001.0), busy(0.1), busy(0.2), IDLE)
    with pytest.raises(StopLooking):
        await watchdog(hours).stalled()


async def test_waiting_requests_are_work():
    """An engine that admits no request hangs, too."""
    hours = Script(*[EngineLoad(waiting=1)] * 10)
    assert await watchdog(hours).stalled()


async def test_a_limit_of_zero_turns_the_watch_off():
    """It then never ends."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await watchdog(Script(*[busy(99.0)] * 9), stall_seconds=0.0).stalled()
