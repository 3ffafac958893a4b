"""Ejection, its duration, and the limits of silence."""

import pytest

from vllama_balancer.workers.breaker import (
    AnswerTimeout,
    Breaker,
    HealthSettings,
    engine_stall_limit_seconds,
)
from vllama_protos.v1 import worker_pb2


class Clock:
    """A clock that tests set."""

    now = 100.0

    def __call__(self):
        """The current time."""
        return self.now


@pytest.fixture
def clock():
    """A clock at rest."""
    return Clock()


@pytest.fixture
def breaker(clock):
    """A breaker with the default thresholds."""
    return Breaker(HealthSettings(), clock)


def test_three_failures_in_a_row_eject(breaker):
    """Not two."""
    assert not breaker.failure("a", may_eject=True)
    assert not breaker.failure("b", may_eject=True)
    assert breaker.failure("c", may_eject=True)
    assert breaker.is_open
    assert "3 requests failed in a row, the last one: c" in breaker.reason


def test_a_success_between_forgives(breaker):
    """Only failures in a row count."""
    for _ in range(5):
        breaker.failure("a", may_eject=True)
        breaker.failure("b", may_eject=True)
        breaker.success()
    assert not breaker.is_open


def test_the_last_worker_is_spared(breaker):
    """Failure counts never eject the only worker; evidence does."""
    for _ in range(10):
        assert not breaker.failure("a", may_eject=False)
    breaker.eject("it is dead")
    assert breaker.is_open


def test_the_wait_doubles_up_to_a_minute(breaker, clock):
    """With every failed probe."""
    waits = []
    for _ in range(8):
        breaker.eject("no answer")
        waits.append(breaker.retry_in_seconds)
        clock.now += waits[-1]
        assert breaker.retry_in_seconds == 0
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert breaker.ejections_total == 1


def test_a_worker_that_falls_again_soon_waits_longer(breaker):
    """One probe alone does not reset the wait."""
    breaker.eject("dead")
    breaker.close()
    breaker.eject("dead again")
    assert breaker.retry_in_seconds == 2


def test_enough_successes_make_the_next_ejection_a_first_one(breaker):
    """Old ejections do not count."""
    breaker.eject("dead")
    breaker.close()
    for _ in range(HealthSettings().successes_to_forgive):
        breaker.success()
    breaker.eject("dead again")
    assert breaker.retry_in_seconds == 1


def report(**fields):
    """A report of a worker with running streams."""
    return worker_pb2.WorkerReport(running=2, **fields)


def test_an_engine_is_given_ten_seconds_for_a_step():
    """While nothing is known of it that takes longer."""
    assert engine_stall_limit_seconds(report(), HealthSettings()) == 10


def test_a_long_prefill_is_given_its_time():
    """30,000 tokens at 500 a second take a minute."""
    slow = report(queued_prompt_tokens=30_000, prefill_tokens_per_second=500.0)
    assert engine_stall_limit_seconds(slow, HealthSettings()) == pytest.approx(10 + 180)


def test_an_unmeasured_prefill_is_given_more():
    """Its pace is unknown."""
    assert engine_stall_limit_seconds(report(queued_prompt_tokens=10), HealthSettings()) == 60


def test_slow_steps_stretch_the_limit():
    """Twenty of its own steps."""
    slow = report()
    slow.step.FromNanoseconds(int(1e9))
    assert engine_stall_limit_seconds(slow, HealthSettings()) == 20


def seconds_of(timeout, is_urgent=True):
    """How long an answer may take."""
    return timeout.seconds(is_urgent=is_urgent)


def test_a_worker_that_computes_where_it_answers_is_given_much_longer():
    """A long prompt on all processors is not a hang."""
    timeout = AnswerTimeout(HealthSettings())
    timeout.record(0.001)
    assert timeout.seconds(is_urgent=True, least_seconds=15.0) == 15.0


def test_a_prompt_worker_is_given_the_usual_time():
    """Together with the silence before, less than a second."""
    timeout, settings = AnswerTimeout(HealthSettings()), HealthSettings()
    timeout.record(0.01)
    assert seconds_of(timeout) == settings.streaming_answer_seconds
    assert seconds_of(timeout, is_urgent=False) == settings.answer_seconds
    assert settings.streaming_silence_seconds + settings.streaming_answer_seconds + settings.check_interval_seconds < 1


def test_a_worker_that_answers_slowly_is_given_longer():
    """Its machine is busy: silence means less there."""
    timeout = AnswerTimeout(HealthSettings())
    timeout.record(0.3)
    timeout.record(0.01)
    assert seconds_of(timeout) == pytest.approx(1.5)
    timeout.record(2.0)
    assert seconds_of(timeout) == HealthSettings().silence_seconds


def test_slow_answers_are_forgotten():
    """After as many fast ones as are remembered."""
    timeout = AnswerTimeout(HealthSettings())
    timeout.record(0.5)
    for _ in range(AnswerTimeout.REMEMBERED_ANSWERS):
        timeout.record(0.001)
    assert seconds_of(timeout) == HealthSettings().streaming_answer_seconds
