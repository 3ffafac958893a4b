"""Charts as inline SVG: bars for means, a heat map for cells, timelines. Plain text out, nothing to install."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROW = 22
LABEL = 170
WIDTH = 760
GAP = 12
SUBJECT_COLOR = "#1f6feb"
OTHER_COLOR = "#9aa4b2"
ORACLE_COLOR = "#c9a227"
KIND_COLORS = ("#1f6feb", "#d1495b", "#2e8b57", "#c9a227", "#7a5195", "#59a5a9", "#a05a2c", "#555555")
"""Colour of each kind in a timeline."""


def bars(title: str, values: Mapping[str, float], highlight: str, reference: str, digits: int = 3) -> str:
    """Draws one horizontal bar for each name; the highlighted one stands out, the reference is another colour."""
    most = max([*values.values(), 1e-12])
    scale = (WIDTH - LABEL - 70) / most
    parts = [_text(0, 14, title, weight="bold")]
    for index, (name, value) in enumerate(values.items()):
        y = 24 + index * ROW
        color = SUBJECT_COLOR if name == highlight else ORACLE_COLOR if name == reference else OTHER_COLOR
        parts.append(_text(LABEL - 8, y + 14, name, anchor="end"))
        parts.append(f'<rect x="{LABEL}" y="{y + 2}" width="{value * scale:.1f}" height="{ROW - 6}" fill="{color}"/>')
        parts.append(_text(LABEL + value * scale + 6, y + 14, f"{value:.{digits}f}"))
    return _svg(WIDTH, 30 + len(values) * ROW, parts)


def heat_map(title: str, rows: Sequence[str], columns: Sequence[str], ratios: Mapping[tuple[str, str], float]) -> str:
    """Draws ratios as coloured squares: green below 1, white at 1, red above."""
    width = max(34, min(60, (WIDTH - LABEL) // max(1, len(columns))))
    parts = [_text(0, 14, title, weight="bold")]
    for number, column in enumerate(columns):
        parts.append(_text(LABEL + number * width + width / 2, 34, column, anchor="middle", size=10))
    for line, row in enumerate(rows):
        y = 40 + line * ROW
        parts.append(_text(LABEL - 8, y + 15, row, anchor="end"))
        for number, column in enumerate(columns):
            if (row, column) in ratios:
                parts.append(_square(LABEL + number * width, y, width, ratios[row, column]))
    return _svg(LABEL + width * len(columns) + 4, 46 + len(rows) * ROW, parts)


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a timeline."""

    row: int
    """Counted from 0."""
    kind: int
    """Picks the colour."""
    start: float
    end: float
    is_faint: bool = False
    """True while the row is only being prepared."""


def timeline(title: str, rows: Sequence[str], kinds: Sequence[str], spans: Sequence[Span], end: float) -> str:
    """Draws the content of each row over time; seconds from left to right."""
    scale = (WIDTH - LABEL - 20) / end
    parts = [_text(0, 14, title, weight="bold")]
    for number, kind in enumerate(kinds):
        left = WIDTH - 20 - 60 * (len(kinds) - number)
        parts.append(f'<rect x="{left}" y="4" width="12" height="12" fill="{KIND_COLORS[number]}"/>')
        parts.append(_text(left + 16, 14, kind))
    for line, row in enumerate(rows):
        parts.append(_text(LABEL - 8, 24 + line * ROW + 15, row, anchor="end"))
    for span in spans:
        x, width = LABEL + span.start * scale, max((span.end - span.start) * scale, 1.0)
        parts.append(
            f'<rect x="{x:.1f}" y="{26 + span.row * ROW}" width="{width:.1f}" height="{ROW - 4}" '
            f'fill="{KIND_COLORS[span.kind]}" opacity="{0.3 if span.is_faint else 1}"/>'
        )
    bottom = 26 + len(rows) * ROW
    marks = range(0, int(end) + 1, 60)
    parts += [_text(LABEL + mark * scale, bottom + 12, f"{mark} s", anchor="middle", size=10) for mark in marks]
    return _svg(WIDTH, bottom + 20, parts)


def stack(charts: Sequence[str]) -> str:
    """Returns one SVG with the charts below each other."""
    parts, bottom = [], 0
    for chart in charts:
        parts.append(chart.replace("<svg ", f'<svg y="{bottom}" ', 1))
        bottom += int(chart.split('height="', 1)[1].split('"', 1)[0]) + GAP
    return _svg(WIDTH, bottom, parts)


def _square(x: float, y: float, width: float, ratio: float) -> str:
    # Full colour at a third better or worse.
    strength = min(1.0, abs(ratio - 1.0) * 3)
    faded = round(255 - 150 * strength)
    color = f"rgb(255,{faded},{faded})" if ratio > 1 else f"rgb({faded},{round(255 - 60 * strength)},{faded})"
    box = f'<rect x="{x}" y="{y}" width="{width - 1}" height="{ROW - 1}" fill="{color}" stroke="#ddd"/>'
    return box + _text(x + width / 2, y + 15, f"{ratio:.2f}", anchor="middle", size=10)


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'font-family="sans-serif">{"".join(parts)}</svg>'
    )
