"""Columns, sizes and times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vllama_clients.cli.columns import ago, columns, moment, size, span, until

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def test_columns_align() -> None:
    """Every column is as wide as its widest cell, and no line ends in blanks."""
    assert columns(("A", "BB"), [("aaa", "b"), ("a", "")]) == "A      BB\naaa    b\na"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (269_060_552, "269 MB"), (4_700_000_000, "4.7 GB")],
)
def test_size(count: int, text: str) -> None:
    """Decimal units, two or three digits."""
    assert size(count) == text


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(seconds=0.5), "moments"),
        (timedelta(seconds=1), "1 second"),
        (timedelta(minutes=5), "5 minutes"),
        (timedelta(hours=25), "1 day"),
        (timedelta(days=800), "2 years"),
    ],
)
def test_span(length: timedelta, text: str) -> None:
    """The largest unit is enough."""
    assert span(length) == text


def test_past_and_future() -> None:
    """Times are relative to now; what is ten years away is for ever; nonsense is a dash."""
    assert ago(NOW - timedelta(hours=3), NOW) == "3 hours ago"
    assert until(NOW + timedelta(minutes=4), NOW) == "4 minutes from now"
    assert until(NOW - timedelta(minutes=4), NOW) == "now"
    assert until(moment("2318-01-01T00:00:00Z"), NOW) == "forever"
    assert ago(moment("nonsense"), NOW) == "-"
