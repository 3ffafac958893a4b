"""The sums of cells: one line per target and concurrency, and the ratios of targets, pair by pair."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from vllama_benchmarks.bench.cell import PERCENTILES, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_benchmarks.bench.cell import Cell

MEASURES = {"ttft": "ttft_seconds", "tpot": "tpot_seconds", "e2e": "seconds"}
"""Names of the measured times, and of their fields."""


@dataclass(frozen=True, slots=True)
class Line:
    """One target at one concurrency, all repeats together."""

    target: str
    concurrency: int
    requests: int
    errors: int
    tokens_per_second: float
    """Median of the repeats."""
    requests_per_second: float
    """Median of the repeats."""
    percentiles: dict[str, dict[int, float | None]]
    """Seconds by measure ("ttft", "tpot", "e2e") and percentile, over all requests."""
    mean_prompt_tokens: float
    mean_output_tokens: float
    cpu_microseconds_per_token: float | None
    """Median of the repeats; None when no process is watched."""
    resident_bytes: int | None
    """Largest of the repeats; None when no process is watched."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One target against another, at one concurrency: one number per repeat."""

    target: str
    base: str
    concurrency: int
    throughput: Sequence[float]
    """Tokens per second of the target by those of the base, repeat by repeat."""
    ttft: Sequence[float]
    """Time to the first token of the target less that of the base, in seconds, repeat by repeat: the difference of
    the medians, or the median of the requests' own differences where these alternated one by one."""

    @property
    def median_throughput(self) -> float | None:
        """The middle one of the ratios; None when there is none."""
        return median(self.throughput) if self.throughput else None


def lines(cells: Sequence[Cell]) -> list[Line]:
    """Sums up by target and concurrency, in the order in which they were measured."""
    keys = dict.fromkeys((cell.target, cell.concurrency) for cell in cells)
    return [_line([cell for cell in cells if (cell.target, cell.concurrency) == key]) for key in keys]


def ratios(cells: Sequence[Cell], bases: Sequence[str] = ()) -> list[Ratio]:
    """Compares every target with the first one, and with those of `bases` that were measured, repeat by repeat."""
    names = list(dict.fromkeys(cell.target for cell in cells))
    concurrencies = list(dict.fromkeys(cell.concurrency for cell in cells))
    all_bases = dict.fromkeys([*names[:1], *(base for base in bases if base in names)])
    return [
        _ratio(cells, base, name, concurrency)
        for base in all_bases
        for name in names
        if name != base and not (name in all_bases and base != names[0])
        for concurrency in concurrencies
    ]


def _line(cells: Sequence[Cell]) -> Line:
    samples = [sample for cell in cells for sample in cell.samples]
    whole = [sample for sample in samples if not sample.error]
    costs = [cell.cpu_microseconds_per_token for cell in cells]
    return Line(
        target=cells[0].target,
        concurrency=cells[0].concurrency,
        requests=len(samples),
        errors=sum(cell.errors for cell in cells),
        tokens_per_second=median(cell.tokens_per_second for cell in cells),
        requests_per_second=median(cell.requests_per_second for cell in cells),
        percentiles={name: _percentiles(cells, measure) for name, measure in MEASURES.items()},
        mean_prompt_tokens=_mean([sample.prompt_tokens for sample in whole]),
        mean_output_tokens=_mean([sample.tokens for sample in whole]),
        cpu_microseconds_per_token=median(known) if (known := [cost for cost in costs if cost is not None]) else None,
        resident_bytes=max((cell.resident_bytes for cell in cells if cell.resident_bytes), default=None),
    )


def _percentiles(cells: Sequence[Cell], measure: str) -> dict[int, float | None]:
    values = [value for cell in cells for value in cell.values(measure)]
    return {percent: percentile(values, percent) for percent in PERCENTILES}


def _ratio(cells: Sequence[Cell], base: str, name: str, concurrency: int) -> Ratio:
    here = [cell for cell in cells if cell.concurrency == concurrency]
    ours = {cell.repeat: cell for cell in here if cell.target == name}
    theirs = {cell.repeat: cell for cell in here if cell.target == base}
    pairs = [(ours[repeat], theirs[repeat]) for repeat in sorted(ours.keys() & theirs.keys())]
    return Ratio(
        target=name,
        base=base,
        concurrency=concurrency,
        throughput=[a.tokens_per_second / b.tokens_per_second for a, b in pairs if b.tokens_per_second],
        ttft=[later for a, b in pairs if (later := _later(a, b)) is not None],
    )


def _later(cell: Cell, base: Cell) -> float | None:
    """Returns how much later a cell's first tokens come than the base's; None if one of them has none."""
    if cell.is_interleaved and base.is_interleaved:
        return percentile(
            [
                ours.ttft_seconds - theirs.ttft_seconds
                for ours, theirs in zip(cell.samples, base.samples, strict=False)
                if not (ours.error or theirs.error)
                and ours.ttft_seconds is not None
                and theirs.ttft_seconds is not None
            ],
            50,
        )
    ours, theirs = (percentile(one.values("ttft_seconds"), 50) for one in (cell, base))
    return None if ours is None or theirs is None else ours - theirs


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
