"""keep_alive takes numbers and Go durations, and nothing else."""

from __future__ import annotations

import math

import pytest

from vllama_balancer.edge.ollama.keep_alive import parse_keep_alive
from vllama_balancer.errors import InvalidRequest


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        (0.5, 0.5),
        (1800, 1800),
        (-1, math.inf),
        (-0.1, math.inf),
        ("0", 0),
        ("0s", 0),
        ("300", 300),
        ("-1", math.inf),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("-1m", math.inf),
        ("100ms", 0.1),
        ("1us", 1e-6),
        ("1µs", 1e-6),
        ("10ns", 1e-8),
        (10**400, 2**63),
    ],
)
def test_reads_seconds(value: object, seconds: float | None) -> None:
    """Negative is forever."""
    assert parse_keep_alive(value) == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize("value", ["", "abc", "1d", "5 m", "m", "1h-30m", "1.2.3s", True, False, [], {}, "0x1", "١"])
def test_refuses_the_rest(value: object) -> None:
    """The field is named."""
    with pytest.raises(InvalidRequest, match="invalid keep_alive") as caught:
        parse_keep_alive(value)
    assert caught.value.field == "keep_alive"


@pytest.mark.timeout(5)
def test_a_long_text_is_refused_at_once() -> None:
    """The time to read it grows with its length, not with the square of that."""
    with pytest.raises(InvalidRequest):
        parse_keep_alive("1" * 1_000_000 + "x")
