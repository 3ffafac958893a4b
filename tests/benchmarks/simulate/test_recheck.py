"""The recheck of cells that missed a goal."""

from __future__ import annotations

import pytest

from vllama_benchmarks.simulate.contenders import LEAST_REQUEST, ORACLE, SUBJECT
from vllama_benchmarks.simulate.grid import Cell
from vllama_benchmarks.simulate.outcome import Score
from vllama_benchmarks.simulate.recheck import (
    CHANCE,
    PROBABLY,
    WEAKNESS,
    Case,
    Estimate,
    estimated,
    judged_ratio,
    judged_share,
    recheck,
    run_anew,
)

CELL = Cell("uniform", 4, 2)


def score(ttft: float) -> Score:
    """Makes a score of which only the tail matters."""
    return Score(0.0, ttft, 0.0, 1.0, 0.0, 1.0)


def test_an_interval_is_as_wide_as_the_runs_differ() -> None:
    """Equal runs leave nothing to chance; runs that differ do, symmetrically about their mean."""
    assert estimated(((2.0, 2.0), (1.0, 1.0)), lambda a, b: a / b) == (2.0, 2.0, 2.0)
    value, low, high = estimated(((1.0, 3.0) * 10,), lambda a: a)
    assert value == 2.0
    assert 1.4 < low < 1.8
    assert 2.2 < high < 2.6


def test_runs_are_resampled_together() -> None:
    """What is hard for both placements cancels out, as both had the same requests."""
    assert estimated(((2.0, 20.0, 200.0), (1.0, 10.0, 100.0)), lambda a, b: a / b) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [((1.04, 1.0, 1.2), CHANCE), ((1.1, 1.04, 1.2), PROBABLY), ((1.1, 1.06, 1.2), WEAKNESS)],
)
def test_a_loss_is_a_weakness_when_no_resampling_explains_it(ratio: tuple[float, ...], verdict: str) -> None:
    """Beyond the tolerance of 5 % as a whole."""
    assert judged_ratio(Estimate(*ratio)) == verdict


@pytest.mark.parametrize(
    ("share", "verdict"),
    [((0.85, 0.1, 1.2), CHANCE), ((0.7, 0.5, 0.9), PROBABLY), ((0.5, 0.4, 0.6), WEAKNESS)],
)
def test_a_share_is_a_weakness_when_no_resampling_explains_it(share: tuple[float, ...], verdict: str) -> None:
    """Short of 80 % as a whole."""
    assert judged_share(Estimate(*share)) == verdict


def test_every_placement_meets_the_same_requests() -> None:
    """One value for each seed and placement; the same placement twice comes out alike."""
    once, again = run_anew((7, 8), Case(CELL, "makespan_seconds", (LEAST_REQUEST, LEAST_REQUEST)))
    assert once == again
    assert len(once) == 2


def test_missed_goals_are_looked_at_and_nothing_else() -> None:
    """A row for the loss and one for the missing share; the same in two processes."""
    results = {
        CELL: {SUBJECT: score(1.2), "random": score(1.0), LEAST_REQUEST: score(1.3), ORACLE: score(1.0)},
        Cell("uniform", 4, 4): {name: score(1.0) for name in (SUBJECT, "random", LEAST_REQUEST, ORACLE)},
    }
    tables = recheck(results, SUBJECT, ["random"], seeds=(1, 2))
    assert [[row[:2] for row in table.rows] for table in tables] == [[("uniform 4x2", "p99 TTFT")]] * 2
    assert tables[0].rows[0][2:4] == ("random", "1.20")
    assert recheck(results, SUBJECT, ["random"], seeds=(1, 2), jobs=2) == tables
