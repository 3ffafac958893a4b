"""Runs contenders over a grid of workloads, concurrencies, fleet sizes and seeds."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from vllama_benchmarks.simulate.contenders import contender
from vllama_benchmarks.simulate.outcome import Score, score
from vllama_benchmarks.simulate.simulation import Simulation
from vllama_benchmarks.simulate.workloads import COMPARED, generate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vllama_benchmarks.simulate.archive import Archive
    from vllama_benchmarks.simulate.placement import PlacementFactory
    from vllama_benchmarks.simulate.workload import Workload


class Cell(NamedTuple):
    """One cell of the grid."""

    workload: str
    """Key of WORKLOADS."""
    concurrency: int
    """Clients; the size of a burst."""
    workers: int
    """Size of the fleet."""

    def __str__(self) -> str:
        """Returns the cell's name in the tables."""
        return f"{self.workload} {self.concurrency}x{self.workers}"


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of a comparison."""

    workloads: tuple[str, ...] = COMPARED
    """Keys of WORKLOADS."""
    concurrencies: tuple[int, ...] = (1, 8, 32, 50)
    """Numbers of clients."""
    workers: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Sizes of the fleet."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each cell is run once with each."""

    def columns(self) -> list[tuple[str, int]]:
        """Returns each pair of workload and concurrency: its cells share their requests."""
        return [(workload, concurrency) for workload in self.workloads for concurrency in self.concurrencies]


FULL = Grid()
"""The whole comparison; minutes."""
QUICK = Grid(concurrencies=(8, 32), workers=(4,), seeds=(0, 1))
"""A part of it; seconds."""

Results = dict[Cell, dict[str, Score]]
"""Scores by cell and contender."""
Progress = Callable[[str], None]
"""Called with a line of progress."""


def silent(line: str) -> None:
    """Reports no progress."""


def run_factories(grid: Grid, factories: Mapping[str, PlacementFactory], progress: Progress = silent) -> Results:
    """Runs placements that are not listed in contenders.py in every cell."""
    results: Results = {}
    for workload, concurrency in grid.columns():
        generated = {seed: generate(workload, seed, concurrency) for seed in grid.seeds}
        for workers in grid.workers:
            results[Cell(workload, concurrency, workers)] = run_cell(generated, factories, workers, concurrency)
        progress(f"{workload} with {concurrency} clients")
    return results


def run(
    grid: Grid,
    names: Iterable[str],
    progress: Progress = silent,
    jobs: int = 1,
    archive: Archive | None = None,
) -> Results:
    """Runs every contender in every cell; `jobs` processes share the work, each with whole columns.

    Columns that the archive has are taken from there.
    """
    names = tuple(names)
    results: Results = {}
    with ProcessPoolExecutor(jobs) if jobs > 1 else nullcontext() as processes:
        work = [(grid, names, workload, concurrency, archive) for workload, concurrency in grid.columns()]
        pending = [processes.submit(_archived_column, *task) for task in work] if processes is not None else []
        for number, (workload, concurrency) in enumerate(grid.columns()):
            results.update(pending[number].result() if pending else _archived_column(*work[number]))
            progress(f"{workload} with {concurrency} clients")
    return results


def _archived_column(
    grid: Grid, names: tuple[str, ...], workload: str, concurrency: int, archive: Archive | None
) -> Results:
    """Runs the cells that share their requests, unless the archive has them."""

    def compute() -> list[Any]:
        results = run_column(grid, names, workload, concurrency)
        return [
            [cell.workers, name, asdict(score)] for cell, scores in results.items() for name, score in scores.items()
        ]

    if archive is None:
        return run_column(grid, names, workload, concurrency)
    key = [list(names), list(grid.workers), list(grid.seeds)]
    results: Results = {}
    for workers, name, values in archive.get(f"{workload}-{concurrency}", key, compute):
        results.setdefault(Cell(workload, concurrency, workers), {})[name] = Score(**values)
    return results


def run_column(grid: Grid, names: tuple[str, ...], workload: str, concurrency: int) -> Results:
    """Runs the cells that share their requests."""
    generated = {seed: generate(workload, seed, concurrency) for seed in grid.seeds}
    factories = {name: contender(name) for name in names}
    return {
        Cell(workload, concurrency, workers): run_cell(generated, factories, workers, concurrency)
        for workers in grid.workers
    }


def run_cell(
    generated: Mapping[int, Workload], factories: Mapping[str, PlacementFactory], workers: int, concurrency: int
) -> dict[str, Score]:
    """Runs one cell. With one worker all contenders are equal, so one of them is run."""
    scores: dict[str, Score] = {}
    for name, factory in factories.items():
        if workers == 1 and scores:
            scores[name] = next(iter(scores.values()))
            continue
        outcomes = [
            Simulation(workload, workers, concurrency, factory, seed).run() for seed, workload in generated.items()
        ]
        scores[name] = score(outcomes)
    return scores
