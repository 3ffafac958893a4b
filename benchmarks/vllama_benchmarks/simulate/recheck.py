"""Runs the comparisons that miss a goal again with unseen seeds, to separate a weakness from chance.

A tail of five runs rests on a few requests, and the best of seven baselines in a cell is in part the luckiest one. So
each such cell is run again, all its placements on the same requests, and the result is given with its interval over
resamplings of the runs.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from vllama_benchmarks.simulate.contenders import LEAST_REQUEST, ORACLE, contender
from vllama_benchmarks.simulate.grid import silent
from vllama_benchmarks.simulate.outcome import mean, percentile, score
from vllama_benchmarks.simulate.simulation import Simulation
from vllama_benchmarks.simulate.tables import SHORT, Table
from vllama_benchmarks.simulate.verdict import TOLERANCE, WANTED_SHARE, WORTHWHILE, gains, losses
from vllama_benchmarks.simulate.workloads import generate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllama_benchmarks.simulate.grid import Cell, Progress, Results
    from vllama_benchmarks.simulate.verdict import Gain, Loss

SEEDS = tuple(range(100, 120))
"""Runs of each cell; the comparison has used none of them."""
RESAMPLES = 2000
"""Draws behind an interval."""
TAIL = 0.025
"""Share outside the interval at either end."""
NOTHING_WON = 1e-9
"""Divisor where the oracle gains nothing: the share is then far above 1."""

WEAKNESS, PROBABLY, CHANCE, NOTHING = "weakness", "probably a weakness", "chance", "nothing to win"
"""The verdicts."""

Runs = tuple[tuple[float, ...], ...]
"""A measure of each run, by placement."""


class Estimate(NamedTuple):
    """A number with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


class Case(NamedTuple):
    """A comparison to be run again."""

    cell: Cell
    measure: str
    names: tuple[str, ...]
    """Placements that take part."""


def recheck(
    results: Results,
    subject: str,
    baselines: Sequence[str],
    seeds: Sequence[int] = SEEDS,
    progress: Progress = silent,
    jobs: int = 1,
) -> list[Table]:
    """Returns the two tables of missed goals, measured with other seeds."""
    lost = losses(results, subject, baselines)
    short = [gain for gain in gains(results, subject) if gain.share < WANTED_SHARE]
    cases = [Case(loss.cell, loss.measure, (subject, loss.baseline)) for loss in lost]
    cases += [Case(gain.cell, gain.measure, (subject, LEAST_REQUEST, ORACLE)) for gain in short]
    run = partial(run_anew, tuple(seeds))
    with ProcessPoolExecutor(jobs) if jobs > 1 else nullcontext() as processes:
        runs = list(map(run, cases) if processes is None else processes.map(run, cases))
    progress(f"looked again at {len(cases)} comparisons")
    return [
        _table(
            "The losing cells, looked at again",
            ("cell", "measure", "best baseline", "ratio", "anew", "verdict"),
            [_loss_row(loss, anew) for loss, anew in zip(lost, runs[: len(lost)], strict=True)],
            len(seeds),
        ),
        _table(
            "The cells short of the oracle's gain, looked at again",
            ("cell", "measure", "share", "oracle's gain anew", "share anew", "verdict"),
            [_gain_row(gain, anew) for gain, anew in zip(short, runs[len(lost) :], strict=True)],
            len(seeds),
        ),
    ]


def run_anew(seeds: tuple[int, ...], case: Case) -> Runs:
    """Runs a case once with each seed, every placement on the same requests."""
    (workload, concurrency, workers), measure, names = case
    values: tuple[list[float], ...] = tuple([] for _ in names)
    for seed in seeds:
        generated = generate(workload, seed, concurrency)
        for name, found in zip(names, values, strict=True):
            outcome = Simulation(generated, workers, concurrency, contender(name), seed).run()
            found.append(getattr(score([outcome]), measure))
    return tuple(map(tuple, values))


def estimated(runs: Runs, statistic: Callable[..., float]) -> Estimate:
    """Computes a statistic of the placements' means, and its interval by resampling whole runs."""
    rng, count = Random(0), len(runs[0])
    drawn = []
    for _ in range(RESAMPLES):
        picked = rng.choices(range(count), k=count)
        drawn.append(statistic(*(mean([values[i] for i in picked]) for values in runs)))
    drawn.sort()
    return Estimate(statistic(*map(mean, runs)), percentile(drawn, TAIL), percentile(drawn, 1 - TAIL))


def judged_ratio(ratio: Estimate) -> str:
    """Returns the verdict on a ratio to the best baseline."""
    if ratio.value <= 1 + TOLERANCE:
        return CHANCE
    return WEAKNESS if ratio.low > 1 + TOLERANCE else PROBABLY


def judged_share(share: Estimate) -> str:
    """Returns the verdict on a share of the oracle's gain."""
    if share.value >= WANTED_SHARE:
        return CHANCE
    return WEAKNESS if share.high < WANTED_SHARE else PROBABLY


def _loss_row(loss: Loss, runs: Runs) -> tuple[str, ...]:
    ratio = estimated(runs, lambda subject, best: subject / best)
    known = (str(loss.cell), SHORT[loss.measure], loss.baseline, f"{loss.ratio:.2f}")
    return (*known, str(ratio), judged_ratio(ratio))


def _gain_row(gain: Gain, runs: Runs) -> tuple[str, ...]:
    won = estimated(runs, lambda _, counted, oracle: counted / oracle - 1)
    known = (str(gain.cell), SHORT[gain.measure], f"{gain.share:.2f}", f"{won.value:.0%}")
    if won.value <= WORTHWHILE:
        return (*known, "", NOTHING)
    share = estimated(runs, lambda subject, counted, oracle: (counted - subject) / max(counted - oracle, NOTHING_WON))
    return (*known, str(share), judged_share(share))


def _table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]], seeds: int) -> Table:
    verdicts = [row[-1] for row in rows]
    tally = ", ".join(
        f"{verdicts.count(one)} {one}" for one in (WEAKNESS, PROBABLY, CHANCE, NOTHING) if one in verdicts
    )
    note = (
        f"The same cells with {seeds} other seeds; in brackets the middle 95 % of {RESAMPLES} resamplings of the runs."
    )
    return Table(title, f"{note} {tally or 'None'}.", header, tuple(rows))
