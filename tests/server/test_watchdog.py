"""The watch for an engine that hangs, in virtual time."""

import asyncio

import pytest

from vllama_server.engine.protocol import EngineLoad
from vllama_server.watchdog import Watchdog


class Script:
    """A script of loads: one for each measurement, a second apart from the first second on."""

    def __init__(self, *loads, late=None):
        self.loads = list(loads)
        self.late = late or {}
        """Seconds that the sleep before a measurement, by its number from 1, takes too long."""
        self.now = 0.0
        self.sleeps = 0

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
        self.sleeps += 1
        self.now += seconds + self.late.get(self.sleeps, 0.0)


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
    """The error says for how long, and which flag sets the limit; the second look beyond the limit decides."""
    hours = Script(*(busy(float(age)) for age in range(1, 10)))
    error = await watchdog(hours).stalled()
    assert "5.0 s" in str(error)
    assert "--stall-seconds" in str(error)
    assert hours.now == 5.0


async def test_an_idle_engine_does_not_stall():
    """It makes no step because it has nothing to do."""
    with pytest.raises(StopLooking):
        await watchdog(Script(*[IDLE] * 20)).stalled()


async def test_the_first_request_after_a_pause_is_no_stall():
    """The old step does not count against work that has just come."""
    hours = Script(IDLE, busy(1000.0), busy(1001.0), busy(0.1), busy(0.2), IDLE)
    with pytest.raises(StopLooking):
        await watchdog(hours).stalled()


async def test_a_frozen_worker_does_not_stall():
    """Time in which the watchdog was frozen was not watched: an engine that goes on afterwards is healthy."""
    hours = Script(busy(0.1), busy(0.1), busy(100.1), busy(0.1), busy(0.2), IDLE, late={3: 99.0})
    with pytest.raises(StopLooking):
        await watchdog(hours).stalled()


async def test_a_long_step_survives_a_freeze():
    """After a freeze that comes late in a long step, the engine gets one more look to make its step."""
    ages = (busy(0.0), busy(1.0), busy(2.0), busy(3.0), busy(103.0), busy(0.5), IDLE)
    hours = Script(*ages, late={5: 99.0})
    with pytest.raises(StopLooking):
        await watchdog(hours).stalled()


async def test_an_engine_that_hangs_across_a_freeze_stalls():
    """A freeze delays the verdict and does not change it; the message gives the watched time only."""
    hours = Script(*[busy(float(age)) for age in (1, 102, 103, 104, 105, 106)], late={2: 100.0})
    error = await watchdog(hours).stalled()
    assert "5.0 s" in str(error)


async def test_waiting_requests_are_work():
    """An engine that admits no request hangs, too."""
    hours = Script(*[EngineLoad(waiting=1)] * 10)
    assert await watchdog(hours).stalled()


async def test_a_limit_of_zero_turns_the_watch_off():
    """It then never ends."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await watchdog(Script(*[busy(99.0)] * 9), stall_seconds=0.0).stalled()
