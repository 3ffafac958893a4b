"""Line charts as inline SVG, so that a report is one file that any browser shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#db2777", "#4b5563")
WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 36, 44
TICKS = 5


@dataclass(frozen=True, slots=True)
class Series:
    """One line: the values at each position, None where there is none."""

    name: str
    values: Sequence[float | None]


def line_chart(title: str, axis: str, positions: Sequence[str], series: Sequence[Series]) -> str:
    """Draws lines over named positions, from zero up to a round number above the largest value."""
    top = ceiling(max((value for one in series for value in one.values if value is not None), default=1.0))
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text x="{LEFT}" y="20" class="title">{escape(title)}</text>',
        *_grid(top),
        *_positions(positions, axis),
    ]
    for number, one in enumerate(series):
        parts.append(_line(one, COLOURS[number % len(COLOURS)], len(positions), top))
    return "\n".join([*parts, "</svg>"])


def legend(names: Sequence[str]) -> str:
    """Returns the legend of charts with the same series."""
    return "\n".join(
        f'<span class="key"><i style="background:{COLOURS[number % len(COLOURS)]}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )


def ceiling(value: float) -> float:
    """Rounds up to a number whose fifths are easy to read."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999999)


def _number(value: float) -> str:
    """Returns four significant digits; large numbers in full."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _x(position: int, count: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (position + 0.5) / count


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top


def _grid(top: float) -> list[str]:
    lines = []
    for tick in range(TICKS + 1):
        value = top * tick / TICKS
        y = _y(value, top)
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" class="tick" text-anchor="end">{_number(value)}</text>')
    return lines


def _positions(positions: Sequence[str], axis: str) -> list[str]:
    y = HEIGHT - BOTTOM + 18
    names = [
        f'<text x="{_x(number, len(positions)):.1f}" y="{y}" class="tick" text-anchor="middle">{escape(name)}</text>'
        for number, name in enumerate(positions)
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return [*names, f'<text x="{middle:.1f}" y="{y + 18}" class="tick" text-anchor="middle">{escape(axis)}</text>']


def _line(series: Series, colour: str, count: int, top: float) -> str:
    points = [
        (_x(number, count), _y(value, top), value) for number, value in enumerate(series.values) if value is not None
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}">'
        f"<title>{escape(series.name)}: {_number(value)}</title></circle>"
        for x, y, value in points
    )
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>{dots}'
