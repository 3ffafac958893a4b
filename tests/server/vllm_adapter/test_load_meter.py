"""Load is measured from what vLLM says at each step, and by the clock between steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllama_server.vllm_adapter.load_meter import HALF_LIFE_SECONDS, LoadMeter, Rate


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Tells the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Starts at 100 seconds."""
    return Clock()


def scheduler(running: int = 1, kv: float = 0.1, queries: int = 0, hits: int = 0) -> Any:
    """One step's SchedulerStats, as far as they are read."""
    cache = SimpleNamespace(queries=queries, hits=hits)
    return SimpleNamespace(num_running_reqs=running, kv_cache_usage=kv, prefix_cache_stats=cache)


def iteration(computed: int = 0, generated: int = 0, first_tokens: tuple[float, ...] = ()) -> Any:
    """One step's IterationStats, as far as they are read."""
    return SimpleNamespace(
        prompt_token_stats=SimpleNamespace(computed=computed), num_generation_tokens=generated,
        time_to_first_tokens_iter=list(first_tokens),
    )  # fmt: skip


def test_counts_are_those_of_the_last_step(clock: Clock) -> None:
    """Whatever is unfinished and does not run waits."""
    meter = LoadMeter(clock)
    meter.record(scheduler(running=3, kv=0.5), None)
    load = meter.load(unfinished_requests=6, queued_prompt_tokens=70)
    assert (load.running, load.waiting, load.kv_cache_use, load.queued_prompt_tokens) == (3, 3, 0.5, 70)


def test_a_request_without_any_step_waits(clock: Clock) -> None:
    """An engine that hangs before its first step has work and says nothing of it."""
    load = LoadMeter(clock).load(1, 0)
    assert (load.running, load.waiting) == (0, 1)


def test_what_has_ended_since_the_last_step_runs_no_more(clock: Clock) -> None:
    """An idle engine makes no step to say that it is idle, and must not be taken for a hung one."""
    meter = LoadMeter(clock)
    meter.record(scheduler(running=2), None)
    load = meter.load(0, 0)
    assert (load.running, load.waiting) == (0, 0)


def test_nothing_is_known_before_the_first_step(clock: Clock) -> None:
    """Zeros, and no age."""
    load = LoadMeter(clock).load(0, 0)
    assert load.last_step_age_seconds is None
    assert (load.step_seconds, load.prefill_tokens_per_second, load.decode_tokens_per_second) == (0, 0, 0)


def test_steps_and_decode_speed_are_measured_between_records(clock: Clock) -> None:
    """Ten steps of 50 ms with four streams: 80 tokens per second."""
    meter = LoadMeter(clock)
    meter.record(scheduler(running=4), None)
    for _ in range(10):
        clock.now += 0.05
        meter.record(scheduler(running=4), iteration(generated=4))
    load = meter.load(4, 0)
    assert load.step_seconds == pytest.approx(0.05)
    assert load.decode_tokens_per_second == pytest.approx(80.0)


def test_decode_speed_halves_with_idle_time(clock: Clock) -> None:
    """An idle engine sends no statistics: the clock shows it."""
    meter = LoadMeter(clock)
    meter.record(scheduler(), None)
    clock.now += 0.1
    meter.record(scheduler(), iteration(generated=1))
    before = meter.load(1, 0).decode_tokens_per_second
    clock.now += HALF_LIFE_SECONDS
    assert meter.load(1, 0).decode_tokens_per_second == pytest.approx(before / 2)
    assert meter.load(1, 0).last_step_age_seconds == pytest.approx(HALF_LIFE_SECONDS)


def test_idle_time_is_no_time_without_a_step(clock: Clock) -> None:
    """An idle engine has no old step, and the age of the first step counts from the last look at the idle engine."""
    meter = LoadMeter(clock)
    meter.record(scheduler(), None)
    clock.now += 60.0
    assert meter.load(0, 0).last_step_age_seconds == 0
    clock.now += 2.0
    assert meter.load(1, 500).last_step_age_seconds == pytest.approx(2.0)


def test_work_without_a_step_makes_the_last_one_old(clock: Clock) -> None:
    """An engine that hangs with work shows its age."""
    meter = LoadMeter(clock)
    meter.load(0, 0)
    meter.record(scheduler(), None)
    clock.now += 30.0
    assert meter.load(1, 0).last_step_age_seconds == pytest.approx(30.0)


def test_prefill_from_idle_takes_its_time_from_the_first_token(clock: Clock) -> None:
    """The pause before a first step is not the step's: 500 tokens in 250 ms, whatever went before."""
    meter = LoadMeter(clock)
    meter.record(scheduler(running=0), None)
    clock.now += 60.0
    meter.record(scheduler(running=1), iteration(computed=500, generated=1, first_tokens=(0.25,)))
    assert meter.load(1, 0).prefill_tokens_per_second == pytest.approx(2000.0)


def test_a_few_prompt_tokens_say_nothing_of_prefill(clock: Clock) -> None:
    """Their step is all overhead."""
    meter = LoadMeter(clock)
    meter.record(scheduler(), iteration(computed=4, generated=1, first_tokens=(0.2,)))
    assert meter.load(1, 0).prefill_tokens_per_second == 0


def test_hit_rate_is_hits_per_token_asked_for(clock: Clock) -> None:
    """Averaged over recent requests."""
    meter = LoadMeter(clock)
    meter.record(scheduler(queries=100, hits=50), None)
    meter.record(scheduler(queries=300, hits=50), None)
    assert meter.load(1, 0).prefix_hit_rate == pytest.approx(0.25)


def test_a_rate_forgets(clock: Clock) -> None:
    """New work outweighs what is many half-lives old."""
    rate = Rate(clock)
    rate.add(1000, 1.0)
    clock.now += 20 * HALF_LIFE_SECONDS
    rate.add(10, 1.0)
    assert rate.while_working() == pytest.approx(10.0, rel=0.01)
