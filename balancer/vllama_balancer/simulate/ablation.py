"""Takes the policy's terms away, one at a time, and shows what each is worth: a term that is worth nothing goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.policies.expected_completion import ExpectedCompletion
from vllama_balancer.policies.weights import ASSIGNED, HELD, PROMPTS, STREAMS, Weights
from vllama_balancer.simulate.balanced import Balanced
from vllama_balancer.simulate.contenders import BASELINES, LEAST_REQUEST, ORACLE, contender
from vllama_balancer.simulate.engine_model import COLD_STEP_SECONDS
from vllama_balancer.simulate.grid import Grid, run_factories, silent
from vllama_balancer.simulate.outcome import mean
from vllama_balancer.simulate.tables import Table
from vllama_balancer.simulate.verdict import MEASURES, gains, losses, relative_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllama_balancer.simulate.grid import Progress, Results
    from vllama_balancer.simulate.placement import PlacementFactory

SHIPPED = "as shipped"
"""The policy with all its terms."""
WITHOUT: Mapping[str, Weights] = {
    SHIPPED: Weights(),
    "without V (avoidable prefill)": Weights(recomputing=0.0),
    "without D (slow workers)": Weights(slowness=0.0),
    "without the band's stream": Weights(band_streams=0.0),
    "without any band": Weights(band_seconds=0.0, band_share=0.0, band_streams=0.0),
    "cached prefix breaks no ties": Weights(ties=(PROMPTS, STREAMS, ASSIGNED)),
    "prompts in flight break no ties": Weights(ties=(HELD, STREAMS, ASSIGNED)),
    "streams break no ties": Weights(ties=(HELD, PROMPTS, ASSIGNED)),
    "recently assigned tokens break no ties": Weights(ties=(HELD, PROMPTS, STREAMS)),
    "without the memory term": Weights(memory_seconds=0.0),
    "without slow start": Weights(slow_start_seconds=0.0),
}
"""The policy, and what it is without each of its parts."""
SPECIAL: Mapping[str, tuple[str, ...]] = {
    "cold-restart": (SHIPPED, "without slow start"),
    "long-contexts": (SHIPPED, "without the memory term"),
}
"""Workloads that only some terms are for, and these terms."""
GRID = Grid(concurrencies=(8, 50), workers=(2, 4, 8), seeds=(0, 1))
"""Where the terms are weighed."""
SPECIAL_GRID = Grid(workloads=tuple(SPECIAL), concurrencies=(8, 50), workers=(2, 4, 8))
"""Where the special ones are."""


def weighed(grid: Grid = GRID, progress: Progress = silent) -> Table:
    """Weighs every term on a part of the comparison's grid."""
    rivals = {**BASELINES, ORACLE: contender(ORACLE)}
    results = run_factories(grid, {**rivals, **{name: _policy(weights) for name, weights in WITHOUT.items()}}, progress)
    return Table(
        "What each term is worth",
        f"{len(results)} cells, {len(grid.seeds)} seeds: p99 TTFT and makespan as multiples of {LEAST_REQUEST}; "
        f"comparisons of {len(results) * len(MEASURES)} that are behind the best baseline; mean part of the oracle's "
        "gain. Other seeds move the means by about 0.01, so smaller differences say nothing.",
        ("policy", "p99 TTFT", "makespan", "behind", "share"),
        tuple(_row(results, name) for name in WITHOUT),
    )


def specialists(grid: Grid = SPECIAL_GRID, progress: Progress = silent) -> Table:
    """Weighs the terms that are for what the comparison's workloads do not have."""
    wanted = {name: _policy(WITHOUT[name]) for names in SPECIAL.values() for name in names}
    results = run_factories(grid, {LEAST_REQUEST: contender(LEAST_REQUEST), **wanted}, progress)
    parts = {name: {c: s for c, s in results.items() if c.workload == name} for name in grid.workloads}
    return Table(
        "What some terms are for",
        f"Geometric means over all fleets and loads of one workload, as multiples of {LEAST_REQUEST}. In cold-restart "
        f"a worker's first six steps after its return take {COLD_STEP_SECONDS} s longer; in long-contexts 8 % of the "
        "prompts have 40000 to 90000 tokens and long answers, and a few of them fill a cache.",
        ("workload", "policy", "p99 TTFT", "makespan"),
        tuple(
            (workload, name, *(f"{relative_mean(part, name, measure):.3f}" for measure in MEASURES))
            for workload, part in parts.items()
            for name in SPECIAL[workload]
        ),
    )


def _policy(weights: Weights) -> PlacementFactory:
    return lambda surroundings: Balanced(surroundings, ExpectedCompletion(weights))


def _row(results: Results, name: str) -> tuple[str, ...]:
    return (
        name,
        *(f"{relative_mean(results, name, measure):.3f}" for measure in MEASURES),
        str(len(losses(results, name, tuple(BASELINES)))),
        f"{mean([min(1.0, gain.share) for gain in gains(results, name)]):.0%}",
    )
