"""Terms taken away, and several balancers, on as little as shows the shape of the tables."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.routing.expected_completion import ExpectedCompletion
from vllama_balancer.routing.snapshot import Candidate, Demand, Snapshot
from vllama_benchmarks.simulate import ablation, multi_balancer
from vllama_benchmarks.simulate.contenders import CONTENDERS, SUBJECT
from vllama_benchmarks.simulate.engine_model import COLD_STEP_SECONDS, EngineModel
from vllama_benchmarks.simulate.grid import Grid, run
from vllama_benchmarks.simulate.variants import SHIPPED, VARIANTS, WITHOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_benchmarks.simulate.workload import Request


def test_every_term_is_weighed_once() -> None:
    """One row each, the policy as shipped first."""
    grid = replace(ablation.GRID, workloads=("chats",), concurrencies=(8,), workers=(2,), seeds=(0,))
    table = ablation.weighed(run(grid, CONTENDERS), grid)
    assert [row[0] for row in table.rows] == list(VARIANTS)
    assert table.rows[0][0] == SHIPPED


def test_as_shipped_is_what_the_comparison_runs() -> None:
    """The weights that are written down are those that are used."""
    (scores,) = run(Grid(("chats",), (8,), (4,), (0,)), [SUBJECT, SHIPPED]).values()
    assert scores[SUBJECT] == scores[SHIPPED]


def test_every_change_changes_something() -> None:
    """No weight is left that the formula does not read: each variant prices or picks some situation differently."""
    now = 100.0
    common = {
        "kv_per_token": 1 / 200_000,
        "prefill_tokens_per_second": 20_000.0,
        "measured_at": now,
        "reported_at": now,
    }
    crowded = Candidate(
        "a", 3, 64, 100, 0.6, assigned_until=now + 15, stream_seconds=0.0003,
        ready_at=now - 2, **common,
    )  # fmt: skip
    calm = Candidate("b", 2, 64, 300, 0.02, stream_seconds=0.0002, **common)
    snapshot, demand = Snapshot(now, (crowded, calm)), Demand(2000, 128, {"a": 900})
    shipped = ExpectedCompletion().explain(snapshot, demand)
    for name, weights in WITHOUT.items():
        if name != SHIPPED and not name.endswith(("band", "stream", "ties")):
            assert ExpectedCompletion(weights).explain(snapshot, demand) != shipped, name


def test_slow_start_is_for_a_worker_that_comes_back_cold() -> None:
    """Its first steps delay all streams on it."""
    grid = replace(ablation.SPECIAL_GRID, workloads=("cold-restart",), concurrencies=(32,), workers=(4,), seeds=(0, 1))
    ttft = {row[1]: float(row[2]) for row in ablation.specialists(grid).rows}
    assert ttft[SHIPPED] < 0.8 * ttft["without slow start"]


def test_two_balancers_share_workers_as_evenly_as_one() -> None:
    """Where one balancer's fullest worker has so much more than the mean, two balancers' has at most 1.3 times that."""
    grid = replace(multi_balancer.GRID, seeds=(0,), workers=(4,))
    rows = {row[0]: row for row in multi_balancer.shared(grid).rows}
    assert rows[multi_balancer.ALONE][2] == "1.00"
    assert float(rows["two balancers"][2]) <= 1.3


def test_a_cold_engine_takes_longer_for_its_first_steps(ask: Callable[..., Request]) -> None:
    """Exactly so many of them."""
    engine, request = EngineModel(), ask((1, 16), output_tokens=10)
    engine.kill(0.0, cold_steps=2)
    engine.submit(0.0, request)
    ends = []
    while engine.next_seconds < 100:
        ends.append(engine.next_seconds)
        engine.advance(engine.next_seconds)
    assert ends[0] > COLD_STEP_SECONDS
    assert ends[-1] - 2 * COLD_STEP_SECONDS == pytest.approx(0.010 + 16 / 20_000 + 9 * 0.0102)


def test_a_tie_of_two_is_broken_by_the_first_that_tells_them_apart() -> None:
    """In the order of the weights."""
    a, b = Candidate("a", 1, 64, 50), Candidate("b", 2, 64, 0)
    picks = {
        ties: ExpectedCompletion(WITHOUT["as shipped"]._replace(ties=ties)).pick(
            Snapshot(0.0, (a, b)), Demand(10, 10, {}), Random(1)
        )
        for ties in (("prompts",), ("streams",))
    }
    assert [choice.worker for choice in picks.values() if choice] == ["b", "a"]
