"""How long a worker's latest requests waited for their first token."""

from __future__ import annotations

import math
from collections import deque

REMEMBERED = 256
"""Requests that are remembered: enough for the slowest of a hundred, few enough to be of today."""


class FirstTokenTimes:
    """Times from placement to the first token, in seconds."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)

    def record(self, seconds: float) -> None:
        """Remembers one more request."""
        self._seconds.append(seconds)

    def quantile(self, share: float) -> float | None:
        """The least time that this share of the requests did not exceed; None before the first."""
        if not self._seconds:
            return None
        return sorted(self._seconds)[max(0, math.ceil(share * len(self._seconds)) - 1)]
