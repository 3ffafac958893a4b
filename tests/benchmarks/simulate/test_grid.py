"""The relations that make the policy worth having, on a part of the grid.

Tolerances: a tail of two seeds is the mean of a handful of requests, and makespan ends with
whichever long answer comes last. Repeating the quick grid with other seeds moves either by a tenth
in single cells and by two hundredths on average, so that single cells are held to a quarter and
averages to a twentieth.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import geometric_mean

import pytest

from vllama_benchmarks.simulate.contenders import BASELINES, CONTENDERS, contender
from vllama_benchmarks.simulate.grid import QUICK, Cell, Grid, Results, run

SUBJECT, LEAST, TURNS = "expected-completion", "least-request", "round-robin"


@pytest.fixture(scope="module")
def results() -> Results:
    """The quick grid, once."""
    return run(replace(QUICK, concurrencies=(32,)), [SUBJECT, LEAST, TURNS])


def ratio(results: Results, workload: str, measure: str, other: str) -> float:
    """Compares the policy with another in one workload; below 1 is better."""
    scores = results[Cell(workload, 32, 4)]
    return float(getattr(scores[SUBJECT], measure) / getattr(scores[other], measure))


@pytest.mark.parametrize("workload", QUICK.workloads)
@pytest.mark.parametrize("measure", ["ttft_p99_seconds", "makespan_seconds"])
def test_nowhere_far_behind_counting(results: Results, workload: str, measure: str) -> None:
    """No workload is served much worse than by counting requests."""
    assert ratio(results, workload, measure, LEAST) < 1.25


def test_a_slow_worker_gets_less(results: Results) -> None:
    """Taking turns gives a worker of half the speed a quarter of the work: the whole fleet waits for it.

    At best it would take a seventh and makespan fall by 30 %; half of that is asked.
    """
    assert ratio(results, "half-speed", "makespan_seconds", TURNS) < 0.85


def test_long_prompts_do_not_queue_behind_each_other(results: Results) -> None:
    """Prompt tokens are counted, so two prompts of 0.6 s seldom meet: the tail falls to nearly one of them."""
    assert ratio(results, "long-prompts", "ttft_p99_seconds", LEAST) < 0.8


def test_agents_return_to_their_caches(results: Results) -> None:
    """A growing prefix is found again: the cached share rises by a tenth at least, and the tail falls."""
    scores = results[Cell("agents", 32, 4)]
    assert scores[SUBJECT].hit_rate > scores[LEAST].hit_rate + 0.05
    assert ratio(results, "agents", "ttft_p99_seconds", LEAST) < 0.75


def test_better_than_counting_on_average(results: Results) -> None:
    """Over all workloads both goals improve."""
    for measure in ("ttft_p99_seconds", "makespan_seconds"):
        assert geometric_mean(ratio(results, name, measure, LEAST) for name in QUICK.workloads) < 1.0


def test_processes_change_nothing() -> None:
    """Sharing the columns among processes gives the same numbers."""
    grid = Grid(("uniform", "chats"), (4,), (2,), (0,))
    assert run(grid, [SUBJECT, LEAST], jobs=2) == run(grid, [SUBJECT, LEAST])


def test_one_worker_leaves_nothing_to_choose() -> None:
    """All contenders score alike there, and only one is run."""
    scores = run(Grid(("chats",), (4,), (1,), (0,)), [SUBJECT, LEAST])[Cell("chats", 4, 1)]
    assert scores[SUBJECT] is scores[LEAST]


def test_contenders_are_found_by_name() -> None:
    """The comparison's and the balancer's own."""
    assert set(BASELINES) < set(CONTENDERS)
    assert contender("least-load")
    with pytest.raises(KeyError):
        contender("nonsense")
