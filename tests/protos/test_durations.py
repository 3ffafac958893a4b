"""Seconds and Durations of the wire: every value has an image."""

from __future__ import annotations

import math

import pytest
from google.protobuf.duration_pb2 import Duration

from vllama_protos.durations import seconds_of, set_seconds

LONGEST = 315_576_000_000


@pytest.mark.parametrize(
    ("seconds", "held"),
    [
        (1.5, 1.5),
        (0, 0),
        (-2.25, -2.25),
        (1e300, LONGEST),
        (-1e300, -LONGEST),
        (math.inf, LONGEST),
        (math.nan, LONGEST),
    ],
)
def test_any_number_becomes_a_duration(seconds: float, held: float) -> None:
    """The nearest that the message can hold; what is not a number becomes the longest."""
    duration = Duration()
    set_seconds(duration, seconds)
    assert seconds_of(duration) == held


@pytest.mark.parametrize("seconds", [2**63 - 1, -(2**63)])
def test_any_duration_has_seconds(seconds: int) -> None:
    """Also one that no timedelta holds."""
    assert seconds_of(Duration(seconds=seconds, nanos=2**31 - 1)) == pytest.approx(seconds)
