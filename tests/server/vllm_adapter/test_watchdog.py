"""A dead engine is seen at once, a stalled one when its time is up, a busy or idle one never."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllama_server.vllm_adapter.watchdog import Watchdog


@dataclass
class Meter:
    """Knows the last step."""

    last_step: float | None = None


@dataclass
class FakeEngine:
    """What the watchdog looks at."""

    is_dead: bool = False
    unfinished_requests: int = 0
    meter: Meter = field(default_factory=Meter)


class Clock:
    """A clock that tests move."""

    now = 100.0

    def __call__(self) -> float:
        """Tells the time."""
        return self.now


def test_a_dead_engine_is_seen_even_when_idle() -> None:
    """No request is needed to notice."""
    assert "died" in Watchdog(FakeEngine(is_dead=True), 10, Clock()).look()


def test_requests_without_a_step_are_a_stall() -> None:
    """Counted from when requests began to wait, not from a step long before."""
    clock, engine = Clock(), FakeEngine(meter=Meter(last_step=5.0))
    watchdog = Watchdog(engine, 10, clock)
    engine.unfinished_requests = 1
    assert watchdog.look() == ""
    clock.now += 9
    assert watchdog.look() == ""
    clock.now += 2
    assert "no step for 11 seconds" in watchdog.look()


def test_steps_show_that_a_busy_engine_is_well() -> None:
    """However long requests run."""
    clock, engine = Clock(), FakeEngine(unfinished_requests=3)
    watchdog = Watchdog(engine, 10, clock)
    for _ in range(20):
        clock.now += 8
        engine.meter.last_step = clock.now - 1
        assert watchdog.look() == ""


def test_idle_time_is_no_stall() -> None:
    """The time counts from the next request on."""
    clock, engine = Clock(), FakeEngine(unfinished_requests=1, meter=Meter(100.0))
    watchdog = Watchdog(engine, 10, clock)
    watchdog.look()
    engine.unfinished_requests = 0
    clock.now += 1000
    assert watchdog.look() == ""
    engine.unfinished_requests = 1
    assert watchdog.look() == ""


def test_zero_turns_the_stall_check_off() -> None:
    """Some devices take minutes for a first step."""
    clock, engine = Clock(), FakeEngine(unfinished_requests=1)
    watchdog = Watchdog(engine, 0, clock)
    watchdog.look()
    clock.now += 10_000
    assert watchdog.look() == ""
