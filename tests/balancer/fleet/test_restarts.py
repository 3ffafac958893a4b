"""What follows a worker's death: pauses that double, and an end to trying."""

from __future__ import annotations

from vllama_balancer.fleet.restarts import GiveUp, RestartJudge, RestartSettings, Retry


def test_pauses_double_up_to_a_minute() -> None:
    """One second, two, four; deaths in between healthy enough not to be a loop."""
    judge = RestartJudge(RestartSettings(most_early_deaths=100))
    assert [judge.after_death(3, 0.0) for _ in range(8)] == [Retry(s) for s in (1, 2, 4, 8, 16, 32, 60, 60)]


def test_a_healthy_life_is_a_clean_slate() -> None:
    """After a minute of health the pauses and counts start over."""
    judge = RestartJudge(RestartSettings())
    for _ in range(4):
        judge.after_death(-9, 1.0)
    assert judge.after_death(-9, 61.0) == Retry(1)
    assert judge.after_death(-9, 1.0) == Retry(2)


def test_five_early_deaths_are_a_crash_loop() -> None:
    """The fifth in a row is the last."""
    judge = RestartJudge(RestartSettings())
    assert all(isinstance(judge.after_death(-11, 5.0), Retry) for _ in range(4))
    assert judge.after_death(-11, 5.0) == GiveUp("died 5 times, each within 60 s")


def test_three_failed_starts_are_enough() -> None:
    """A start that failed three times in a row will fail again; another death between them starts the count over."""
    judge = RestartJudge(RestartSettings())
    judge.after_death(1, 5.0)
    judge.after_death(1, 5.0)
    assert isinstance(judge.after_death(-9, 5.0), Retry)
    judge = RestartJudge(RestartSettings())
    verdicts = [judge.after_death(1, 5.0) for _ in range(3)]
    assert verdicts[-1] == GiveUp("failed to start 3 times")


def test_bad_flags_are_final() -> None:
    """They will be as bad the next time."""
    assert RestartJudge(RestartSettings()).after_death(2, 0.5) == GiveUp("refused its flags")


def test_a_worker_that_was_told_to_leave_is_no_crash() -> None:
    """Status 0 is followed by a start, however often."""
    judge = RestartJudge(RestartSettings())
    assert all(isinstance(judge.after_death(0, 1.0), Retry) for _ in range(20))
