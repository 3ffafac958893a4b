"""A grid search for the cache-aware rule's best thresholds, so that the comparison uses the rule at its best.

The search runs on a seed that the comparison does not use, over the workloads that share prefixes: where nothing
matches, the rule is least request whatever its thresholds. The score is that of the goals: the geometric mean of p99
TTFT and of makespan.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from vllama_benchmarks.simulate.baselines import CacheAwareRule
from vllama_benchmarks.simulate.contenders import BASELINES, LEAST_REQUEST, cache_aware
from vllama_benchmarks.simulate.grid import Grid, run_factories, silent
from vllama_benchmarks.simulate.verdict import MEASURES, geometric_mean, relative_mean

if TYPE_CHECKING:
    from vllama_benchmarks.simulate.grid import Progress

GRID = Grid(workloads=("chats", "hot-prefix", "agents"), concurrencies=(8, 50), workers=(4, 8), seeds=(1000,))
"""The cells of the search."""
RULES = tuple(
    CacheAwareRule(match, absolute, relative)
    for match, absolute, relative in product((0.3, 0.5, 0.7, 0.9), (2, 4, 8, 16, 32), (1.1, 1.5))
)
"""The thresholds that are tried."""


def tune(
    grid: Grid = GRID, rules: tuple[CacheAwareRule, ...] = RULES, progress: Progress = silent
) -> list[tuple[float, CacheAwareRule]]:
    """Scores every rule, the best first; a score is a multiple of least request's."""
    factories = {str(index): cache_aware(rule) for index, rule in enumerate(rules)}
    factories[LEAST_REQUEST] = BASELINES[LEAST_REQUEST]
    results = run_factories(grid, factories, progress)

    def worth(index: int) -> float:
        return geometric_mean(relative_mean(results, str(index), measure) for measure in MEASURES)

    return sorted(((worth(index), rule) for index, rule in enumerate(rules)), key=lambda pair: pair[0])
