"""Durations of the wire as seconds: total functions, where protobuf's own raise for values that no timedelta holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

_LONGEST_SECONDS = 315_576_000_000
"""Ten thousand years, the most that a Duration may hold by its definition."""


def seconds_of(duration: Duration) -> float:
    """Returns the seconds of a duration, whatever its fields hold."""
    return float(duration.seconds + duration.nanos / 1e9)


def set_seconds(duration: Duration, seconds: float) -> None:
    """Sets a duration: to the nearest that it can hold, and to the longest for what is not a number."""
    within = _LONGEST_SECONDS if math.isnan(seconds) else max(-_LONGEST_SECONDS, min(seconds, _LONGEST_SECONDS))
    duration.FromNanoseconds(round(within * 1e9))
