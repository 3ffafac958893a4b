"""One policy against the baselines: the cells it loses, its geometric mean, its share of the oracle's gain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllama_benchmarks.simulate.contenders import LEAST_REQUEST, ORACLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vllama_benchmarks.simulate.grid import Cell
    from vllama_benchmarks.simulate.outcome import Score

MEASURES = ("ttft_p99_seconds", "makespan_seconds")
"""The measures of the goals; less is better."""
TOLERANCE = 0.05
"""How far behind the best baseline of a cell counts as equal."""
WORTHWHILE = 0.10
"""What the oracle must gain over least request for the cell to count."""
WANTED_SHARE = 0.80
"""The goal's share of that gain."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A cell and measure in which the policy is further behind the best baseline than tolerated."""

    cell: Cell
    measure: str
    baseline: str
    """The best baseline there."""
    value: float
    best: float

    @property
    def ratio(self) -> float:
        """How many times the best value."""
        return self.value / self.best


@dataclass(frozen=True, slots=True)
class Gain:
    """A cell and measure in which the oracle beats least request."""

    cell: Cell
    measure: str
    least_request: float
    oracle: float
    value: float

    @property
    def share(self) -> float:
        """The part of the oracle's gain that the policy gets; above 1 when it does better."""
        return (self.least_request - self.value) / (self.least_request - self.oracle)


def losses(results: Mapping[Cell, Mapping[str, Score]], policy: str, baselines: Sequence[str]) -> list[Loss]:
    """Lists where the policy is behind, the worst first."""
    found = []
    for cell, scores in results.items():
        for measure in MEASURES:
            best, name = min((getattr(scores[name], measure), name) for name in baselines)
            value = getattr(scores[policy], measure)
            if value > best * (1 + TOLERANCE):
                found.append(Loss(cell, measure, name, value, best))
    return sorted(found, key=lambda loss: -loss.ratio)


def gains(results: Mapping[Cell, Mapping[str, Score]], policy: str) -> list[Gain]:
    """Lists where the oracle wins something, the smallest share first."""
    found = []
    for cell, scores in results.items():
        for measure in MEASURES:
            counted, oracle = getattr(scores[LEAST_REQUEST], measure), getattr(scores[ORACLE], measure)
            if counted > oracle * (1 + WORTHWHILE):
                found.append(Gain(cell, measure, counted, oracle, getattr(scores[policy], measure)))
    return sorted(found, key=lambda gain: gain.share)


def geometric_mean(values: Iterable[float]) -> float:
    """Averages ratios."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else 1.0


def relative_mean(results: Mapping[Cell, Mapping[str, Score]], policy: str, measure: str) -> float:
    """Averages a measure over all cells as a multiple of least request's; below 1 is better than counting."""
    return geometric_mean(
        getattr(scores[policy], measure) / getattr(scores[LEAST_REQUEST], measure) for scores in results.values()
    )
