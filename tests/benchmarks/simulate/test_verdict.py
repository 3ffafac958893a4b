import pytest

from vllama_benchmarks.simulate.grid import Cell
from vllama_benchmarks.simulate.outcome import Score
from vllama_benchmarks.simulate.verdict import gains, geometric_mean, losses, relative_mean

CELL = Cell("uniform", 8, 4)


def score(ttft: float, makespan: float) -> Score:
    """Makes a score of which only the two measures of the goals matter."""
    return Score(0.0, ttft, 0.0, makespan, 0.0, 1.0)


def test_a_loss_is_more_than_the_tolerance_behind_the_best_baseline() -> None:
    """4 % behind counts as equal, 10 % behind is a loss to the best baseline."""
    results = {CELL: {"ours": score(1.04, 1.1), "a": score(1.0, 1.5), "b": score(2.0, 1.0)}}
    (loss,) = losses(results, "ours", ["a", "b"])
    assert (loss.measure, loss.baseline, loss.ratio) == ("makespan_seconds", "b", pytest.approx(1.1))


def test_a_gain_is_counted_where_there_is_something_to_win() -> None:
    """The oracle wins 20 % of TTFT, of which ours gets three quarters; 5 % of makespan do not count."""
    results = {CELL: {"ours": score(0.85, 1.0), "least-request": score(1.0, 1.0), "oracle": score(0.8, 0.96)}}
    (gain,) = gains(results, "ours")
    assert (gain.measure, gain.share) == ("ttft_p99_seconds", pytest.approx(0.75))


def test_means_over_cells_are_geometric() -> None:
    """Half in one cell and double in another is even."""
    other = Cell("uniform", 8, 2)
    results = {
        CELL: {"ours": score(0.5, 1.0), "least-request": score(1.0, 1.0)},
        other: {"ours": score(4.0, 1.0), "least-request": score(2.0, 1.0)},
    }
    assert relative_mean(results, "ours", "ttft_p99_seconds") == pytest.approx(1.0)
    assert geometric_mean([]) == 1.0
