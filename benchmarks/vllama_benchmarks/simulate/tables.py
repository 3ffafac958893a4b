"""The comparison as rows of text, for both the Markdown page and the HTML report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllama_benchmarks.simulate.contenders import BASELINES, CONTENDERS, LEAST_REQUEST, ORACLE
from vllama_benchmarks.simulate.outcome import mean
from vllama_benchmarks.simulate.verdict import (
    MEASURES,
    TOLERANCE,
    WANTED_SHARE,
    WORTHWHILE,
    gains,
    losses,
    relative_mean,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_benchmarks.simulate.grid import Results

SHORT = {"ttft_p99_seconds": "p99 TTFT", "makespan_seconds": "makespan"}
"""Names of the measures."""


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, a note and rows."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def contenders_of(results: Results) -> list[str]:
    """Lists the contenders that took part, in the order of the report."""
    present = next(iter(results.values()))
    return [name for name in CONTENDERS if name in present] + [name for name in present if name not in CONTENDERS]


def tables(results: Results, subject: str) -> list[Table]:
    """Makes every table of the report."""
    return [summary(results), by_workload(results), *goals(results, subject), details(results)]


def summary(results: Results) -> Table:
    """Makes one row for each contender, all cells together."""
    rows = []
    for name in contenders_of(results):
        scores = [cell[name] for cell in results.values()]
        rows.append(
            (
                name,
                *(f"{relative_mean(results, name, m):.3f}" for m in (*MEASURES, "ttft_p50_seconds", "tpot_seconds")),
                f"{mean([s.hit_rate for s in scores]) * 100:.1f} %",
                f"{mean([s.imbalance for s in scores]):.2f}",
                str(len(losses(results, name, baselines_of(results)))),
            )
        )
    return Table(
        f"All {len(results)} cells",
        f"Geometric means as multiples of {LEAST_REQUEST}: less is better. Behind: cells and measures more than "
        f"{TOLERANCE:.0%} behind the best baseline.",
        ("placement", "p99 TTFT", "makespan", "p50 TTFT", "TPOT", "cached", "max/mean load", "behind"),
        tuple(rows),
    )


def by_workload(results: Results) -> Table:
    """Makes one row for each contender and one column for each workload."""
    workloads = list(dict.fromkeys(cell.workload for cell in results))
    parts = {
        workload: {cell: scores for cell, scores in results.items() if cell.workload == workload}
        for workload in workloads
    }
    rows = [
        (name, *(" / ".join(f"{relative_mean(part, name, m):.2f}" for m in MEASURES) for part in parts.values()))
        for name in contenders_of(results)
    ]
    note = f"p99 TTFT / makespan, geometric means over the cells of a workload as multiples of {LEAST_REQUEST}."
    return Table("By workload", note, ("placement", *workloads), tuple(rows))


def goals(results: Results, subject: str) -> list[Table]:
    """Makes the two tables of cells that miss a goal: behind the best baseline, or short of the oracle's gain."""
    tables = []
    if baselines_of(results):
        tables.append(_losing(results, subject))
    if {LEAST_REQUEST, ORACLE} <= set(contenders_of(results)):
        tables.append(_falling_short(results, subject))
    return tables


def baselines_of(results: Results) -> list[str]:
    """Lists the baselines that took part."""
    return [name for name in contenders_of(results) if name in BASELINES]


def _losing(results: Results, subject: str) -> Table:
    lost = losses(results, subject, baselines_of(results))
    return Table(
        f"Where {subject} loses",
        f"{len(lost)} of {len(results) * len(MEASURES)} comparisons are more than {TOLERANCE:.0%} behind the best "
        "baseline of their cell.",
        ("cell", "measure", "best baseline", "its seconds", subject, "ratio"),
        tuple(
            (str(x.cell), SHORT[x.measure], x.baseline, f"{x.best:.3f}", f"{x.value:.3f}", f"{x.ratio:.2f}")
            for x in lost
        ),
    )


def _falling_short(results: Results, subject: str) -> Table:
    won = gains(results, subject)
    short = [gain for gain in won if gain.share < WANTED_SHARE]
    return Table(
        f"Where {subject} gets less than {WANTED_SHARE:.0%} of what the oracle wins",
        f"In {len(won)} comparisons the oracle is more than {WORTHWHILE:.0%} ahead of {LEAST_REQUEST}; in "
        f"{len(won) - len(short)} of them {subject} gets at least {WANTED_SHARE:.0%} of that, on average "
        f"{mean([min(1.0, gain.share) for gain in won]):.0%} (counted up to 100 %).",
        ("cell", "measure", LEAST_REQUEST, ORACLE, subject, "share"),
        tuple(
            (
                str(x.cell),
                SHORT[x.measure],
                f"{x.least_request:.3f}",
                f"{x.oracle:.3f}",
                f"{x.value:.3f}",
                f"{x.share:.0%}",
            )
            for x in short
        ),
    )


def details(results: Results) -> Table:
    """Makes one row for each cell and contender."""
    rows = [
        (
            str(cell),
            name,
            f"{score.ttft_p50_seconds * 1e3:.0f}",
            f"{score.ttft_p99_seconds * 1e3:.0f}",
            f"{score.tpot_seconds * 1e3:.1f}",
            f"{score.makespan_seconds:.2f}",
            f"{score.hit_rate * 100:.1f}",
            f"{score.imbalance:.2f}",
        )
        for cell, scores in results.items()
        if cell.workers > 1
        for name, score in scores.items()
    ]
    return Table(
        "Every cell",
        "Workload, clients x workers. Milliseconds, makespan in seconds; one worker, where all are equal, is left out.",
        ("cell", "placement", "p50 TTFT", "p99 TTFT", "TPOT", "makespan", "cached %", "max/mean load"),
        tuple(rows),
    )


def markdown(parts: Sequence[Table]) -> str:
    """Writes tables as Markdown."""
    blocks = []
    for part in parts:
        lines = [f"## {part.title}", "", part.note, ""]
        if part.rows:
            lines += [_row(part.header), _row(["---", *["---:"] * (len(part.header) - 1)])]
            lines += [_row(row) for row in part.rows]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
