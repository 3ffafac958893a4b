"""The comparison as one self-contained HTML page with inline SVG charts, and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from vllama_benchmarks.simulate.charts import bars, heat_map, stack
from vllama_benchmarks.simulate.contenders import LEAST_REQUEST, ORACLE
from vllama_benchmarks.simulate.tables import SHORT, baselines_of, contenders_of, markdown, tables
from vllama_benchmarks.simulate.verdict import MEASURES, geometric_mean, relative_mean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vllama_benchmarks.simulate.grid import Cell, Results
    from vllama_benchmarks.simulate.tables import Table

STYLE = (
    "body{font:14px/1.5 sans-serif;max-width:1250px;margin:2em auto;padding:0 1em;color:#1b1f24}"
    "table{border-collapse:collapse;margin:1em 0}"
    "td,th{padding:2px 10px;border-bottom:1px solid #e3e6ea;text-align:right}"
    "td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}"
    "svg{display:block;margin:1.5em 0;max-width:100%}"
)


@dataclass(frozen=True, slots=True)
class Section:
    """A further section of the report."""

    table: Table
    charts: tuple[str, ...] = ()
    """SVG."""
    name: str = ""
    """Name of the SVG file with all its charts."""


def write(directory: Path, results: Results, subject: str, sections: Sequence[Section]) -> None:
    """Writes report.html, report.md and the SVG files into a directory."""
    *comparison, details = tables(results, subject)
    text = markdown([*comparison, *(section.table for section in sections), details])
    (directory / "report.md").write_text(text, encoding="utf-8")
    (directory / "report.html").write_text(page(results, subject, sections), encoding="utf-8")
    (directory / "comparison.svg").write_text(picture(results, subject), encoding="utf-8")
    for section in sections:
        if section.charts:
            (directory / f"{section.name}.svg").write_text(stack(section.charts), encoding="utf-8")


def picture(results: Results, subject: str) -> str:
    """Draws the comparison as a whole: means over all cells, then each cell against its best baseline."""
    charts = [draw(results, subject, measure) for draw in (_means, _versus_best) for measure in MEASURES]
    return stack([chart for chart in charts if chart])


def page(results: Results, subject: str, sections: Sequence[Section] = ()) -> str:
    """Returns the whole page."""
    parts = tables(results, subject)
    body = [
        "<h1>Placement policies on simulated fleets</h1>",
        f"<p>{escape(subject)} against the field's placements, on the step model of the simulated engine. "
        "Every cell is one workload, a number of clients and a number of workers, with several seeds.</p>",
        _table(parts[0]),
        *(_means(results, subject, measure) for measure in MEASURES),
        *(_versus_best(results, subject, measure) for measure in MEASURES),
        *(_by_workload(results, subject, measure) for measure in MEASURES),
        *(_table(part) for part in parts[1:-1]),
        *(_table(section.table) + "".join(section.charts) for section in sections),
        _table(parts[-1]),
    ]
    title = "Placement policies on simulated fleets"
    return f'<!doctype html><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>{"".join(body)}\n'


def _means(results: Results, subject: str, measure: str) -> str:
    values = {name: relative_mean(results, name, measure) for name in contenders_of(results)}
    return bars(f"{SHORT[measure]}, all cells, as a multiple of {LEAST_REQUEST}", values, subject, ORACLE)


def _by_workload(results: Results, subject: str, measure: str) -> str:
    """Draws one bar chart for each workload."""
    charts = []
    for workload in dict.fromkeys(cell.workload for cell in results):
        part = {cell: scores for cell, scores in results.items() if cell.workload == workload and cell.workers > 1}
        if part:
            values = {name: relative_mean(part, name, measure) for name in contenders_of(part)}
            title = f"{SHORT[measure]}, {workload}, as a multiple of {LEAST_REQUEST}"
            charts.append(bars(title, values, subject, ORACLE))
    return "".join(charts)


def _versus_best(results: Results, subject: str, measure: str) -> str:
    baselines = baselines_of(results)
    if not baselines:
        return ""
    ratios: dict[tuple[str, str], float] = {}
    columns: dict[str, None] = {}
    for cell, scores in results.items():
        if cell.workers > 1:
            best = min(getattr(scores[name], measure) for name in baselines)
            ratios[cell.workload, _column(cell)] = getattr(scores[subject], measure) / best
            columns[_column(cell)] = None
    rows = list(dict.fromkeys(row for row, _ in ratios))
    overall = geometric_mean(ratios.values())
    title = f"{SHORT[measure]} of {subject} over the best baseline of each cell; on average {overall:.3f}"
    return heat_map(title, rows, list(columns), ratios)


def _column(cell: Cell) -> str:
    return f"{cell.concurrency}x{cell.workers}"


def _table(part: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in part.header)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in part.rows)
    grid = f"<table><tr>{head}</tr>{rows}</table>" if part.rows else ""
    return f"<h2>{escape(part.title)}</h2><p>{escape(part.note)}</p>{grid}"
