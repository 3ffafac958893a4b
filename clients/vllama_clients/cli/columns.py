"""Plain columns and human numbers, as `ollama list` prints them: whole names, no frames, easy to cut."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"))
SPANS = (
    (timedelta(days=365), "year"),
    (timedelta(days=30), "month"),
    (timedelta(days=7), "week"),
    (timedelta(days=1), "day"),
    (timedelta(hours=1), "hour"),
    (timedelta(minutes=1), "minute"),
    (timedelta(seconds=1), "second"),
)
FOREVER = timedelta(days=365 * 10)


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligns the rows under their header, four blanks apart."""
    table = [header, *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(header))]
    return "\n".join(
        "    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def size(count: int) -> str:
    """Writes a number of bytes with two or three digits: "270 MB", "4.7 GB"."""
    for factor, unit in UNITS:
        if count >= factor:
            value = count / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{count} B"


def moment(text: str) -> datetime | None:
    """Reads an RFC 3339 time; None for one that is missing or odd."""
    try:
        parsed = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def ago(then: datetime | None, now: datetime) -> str:
    """Writes how long ago something was: "3 hours ago"; "-" when that is not known."""
    return "-" if then is None else f"{span(now - then)} ago"


def until(then: datetime | None, now: datetime) -> str:
    """Writes when something will be: "4 minutes from now", "forever"; "-" when that is not known."""
    if then is None:
        return "-"
    if then - now > FOREVER:
        return "forever"
    return f"{span(then - now)} from now" if then > now else "now"


def span(length: timedelta) -> str:
    """Writes a length of time in its largest unit: "3 hours"."""
    for unit, name in SPANS:
        count = int(length / unit)
        if count >= 1:
            return f"{count} {name}" if count == 1 else f"{count} {name}s"
    return "moments"
