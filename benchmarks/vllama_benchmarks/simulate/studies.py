"""The further sections of the report: missed goals with other seeds, ablation, several balancers, loading."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from vllama_benchmarks.simulate import ablation, alternating_load, multi_balancer, recheck
from vllama_benchmarks.simulate.contenders import BASELINES, SUBJECT
from vllama_benchmarks.simulate.report import Section
from vllama_benchmarks.simulate.tables import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllama_benchmarks.simulate.archive import Archive
    from vllama_benchmarks.simulate.grid import Grid, Progress, Results

QUICK_SEEDS = recheck.SEEDS[:3]
"""Seeds of a rechecked cell in the quick report."""


@dataclass(frozen=True, slots=True)
class Studies:
    """Computes the further sections, or takes them from the archive."""

    results: Results
    """The comparison."""
    grid: Grid
    """Its cells."""
    archive: Archive
    """Where tables are kept."""
    progress: Progress
    """Called with a line for each finished section."""
    jobs: int = 1
    """Processes that share the work."""
    is_quick: bool = False
    """True for a part of each."""

    def sections(self) -> list[Section]:
        results = [alternating_load.play(scenario) for scenario in alternating_load.SCENARIOS]
        return [
            *self._kept("looked-again", self._recheck),
            *self._kept("terms", self._terms),
            *self._kept("special-terms", lambda: [ablation.specialists(self._part(ablation.SPECIAL_GRID))]),
            *self._kept("several-balancers", lambda: [multi_balancer.shared(self._part(multi_balancer.GRID))]),
            Section(alternating_load.table(results), tuple(map(alternating_load.chart, results)), "alternating"),
        ]

    def _recheck(self) -> Sequence[Table]:
        seeds = QUICK_SEEDS if self.is_quick else recheck.SEEDS
        return recheck.recheck(self.results, SUBJECT, tuple(BASELINES), seeds, self.progress, self.jobs)

    def _terms(self) -> Sequence[Table]:
        grid = self.grid if self.is_quick else ablation.GRID
        return [ablation.weighed(self.results, grid, self.progress, self.jobs, self.archive.within("terms"))]

    def _part(self, grid: Grid) -> Grid:
        return replace(grid, workers=(4,), seeds=(0,)) if self.is_quick else grid

    def _kept(self, name: str, study: Callable[[], Sequence[Table]]) -> list[Section]:
        kept: list[dict[str, Any]] = self.archive.get(
            name, [self.is_quick], lambda: [asdict(table) for table in study()]
        )
        self.progress(f"beside the comparison: {name}")
        return [
            Section(Table(one["title"], one["note"], tuple(one["header"]), tuple(map(tuple, one["rows"]))))
            for one in kept
        ]
