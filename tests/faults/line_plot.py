"""Draws lines over a shared time axis, one panel each, as SVG: text out, nothing to install."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, PANEL, LEFT, TOP, GAP = 820, 120, 70, 40, 44
COLOR = "#1f6feb"


class Line(NamedTuple):
    """One panel."""

    title: str
    values: Sequence[float]


def line_plot(title: str, unit: str, positions: Sequence[float], lines: Sequence[Line]) -> str:
    """Draws each line from zero to its greatest value, one below the other."""
    height = TOP + len(lines) * (PANEL + GAP)
    parts = [_text(LEFT, 18, title, weight="bold")]
    for number, line in enumerate(lines):
        parts += _panel(line, unit, positions, TOP + number * (PANEL + GAP))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif">'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _panel(line: Line, unit: str, positions: Sequence[float], top: float) -> list[str]:
    span = max(positions[-1] - positions[0], 1e-9)
    most = max(*line.values, 1e-9) * 1.1
    scale = (WIDTH - LEFT - 20) / span
    points = " ".join(
        f"{LEFT + (x - positions[0]) * scale:.1f},{top + PANEL * (1 - y / most):.1f}"
        for x, y in zip(positions, line.values, strict=True)
    )
    bottom = top + PANEL
    return [
        _text(LEFT, top - 6, line.title),
        f'<path d="M{LEFT} {top}V{bottom}H{WIDTH - 20}" fill="none" stroke="#888"/>',
        f'<polyline points="{points}" fill="none" stroke="{COLOR}" stroke-width="1.5"/>',
        _text(LEFT - 6, top + 10, f"{most:.4g}", anchor="end"),
        _text(LEFT - 6, bottom, "0", anchor="end"),
        _text(LEFT, bottom + 14, f"{positions[0]:.0f}"),
        _text(WIDTH - 20, bottom + 14, f"{positions[-1]:.0f} {unit}", anchor="end"),
    ]


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" font-weight="{weight}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
