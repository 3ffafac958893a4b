"""Ablation: the policy without each of its terms in turn. A term without effect is removed from the policy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vllama_benchmarks.simulate.contenders import BASELINES, LEAST_REQUEST, contender
from vllama_benchmarks.simulate.engine_model import COLD_STEP_SECONDS
from vllama_benchmarks.simulate.grid import FULL, Grid, run, run_factories, silent
from vllama_benchmarks.simulate.outcome import mean
from vllama_benchmarks.simulate.tables import Table
from vllama_benchmarks.simulate.variants import (
    SHIPPED,
    VARIANTS,
    WITHOUT_MEMORY,
    WITHOUT_REPLIES,
    WITHOUT_SLOW_START,
)
from vllama_benchmarks.simulate.verdict import MEASURES, WANTED_SHARE, gains, losses, relative_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllama_benchmarks.simulate.archive import Archive
    from vllama_benchmarks.simulate.grid import Progress, Results

SPECIAL: Mapping[str, tuple[str, ...]] = {
    "cold-restart": (SHIPPED, WITHOUT_SLOW_START),
    "long-contexts": (SHIPPED, WITHOUT_MEMORY),
    "long-answers": (SHIPPED, WITHOUT_REPLIES),
}
"""The terms that matter in one special workload only, by that workload."""
GRID = replace(FULL, concurrencies=(8, 32, 50), workers=(2, 4, 8))
"""The cells of the ablation: those with several workers and enough load for a choice to matter."""
SPECIAL_GRID = Grid(workloads=tuple(SPECIAL), concurrencies=(8, 50), workers=(2, 4, 8))
"""The cells of the special workloads."""


def weighed(
    compared: Results, grid: Grid = GRID, progress: Progress = silent, jobs: int = 1, archive: Archive | None = None
) -> Table:
    """Measures every variant on a part of the comparison's grid; `compared` has its baselines and oracle."""
    own = run(grid, VARIANTS, progress, jobs, archive)
    results = {cell: {**compared[cell], **scores} for cell, scores in own.items()}
    won = len(gains(results, SHIPPED))
    return Table(
        "What each term is worth",
        f"{len(results)} cells, {len(grid.seeds)} seeds: p99 TTFT and makespan as multiples of {LEAST_REQUEST}; "
        f"comparisons of {len(results) * len(MEASURES)} that are behind the best baseline; of {won} in which the "
        f"oracle wins, those that get less than {WANTED_SHARE:.0%} of it; mean part of its gain. "
        "Other seeds move the means by about 0.01, so smaller differences say nothing.",
        ("policy", "p99 TTFT", "makespan", "behind", "short", "share"),
        tuple(_row(results, name) for name in VARIANTS),
    )


def specialists(grid: Grid = SPECIAL_GRID, progress: Progress = silent) -> Table:
    """Measures the terms of special workloads, which the comparison does not contain."""
    compared = {name: contender(name) for names in SPECIAL.values() for name in names}
    results = run_factories(grid, {LEAST_REQUEST: contender(LEAST_REQUEST), **compared}, progress)
    parts = {name: {c: s for c, s in results.items() if c.workload == name} for name in grid.workloads}
    return Table(
        "What some terms are for",
        f"Geometric means over all fleets and loads of one workload, as multiples of {LEAST_REQUEST}. In cold-restart "
        f"a worker's first six steps after its return take {COLD_STEP_SECONDS} s longer; in long-contexts 8 % of the "
        "prompts have 40000 to 90000 tokens and long answers, and a few of them fill a cache; in long-answers "
        "conversations of two to five turns have answers of some 600 tokens.",
        ("workload", "policy", "p99 TTFT", "makespan"),
        tuple(
            (workload, name, *(f"{relative_mean(part, name, measure):.3f}" for measure in MEASURES))
            for workload, part in parts.items()
            for name in SPECIAL[workload]
        ),
    )


def _row(results: Results, name: str) -> tuple[str, ...]:
    won = gains(results, name)
    return (
        name,
        *(f"{relative_mean(results, name, measure):.3f}" for measure in MEASURES),
        str(len(losses(results, name, tuple(BASELINES)))),
        str(sum(gain.share < WANTED_SHARE for gain in won)),
        f"{mean([min(1.0, gain.share) for gain in won]):.0%}",
    )
