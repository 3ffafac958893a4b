"""How full a worker was of late and how much it got done, in the two numbers by which gRPC clients weigh it.

A client's `weighted_round_robin` gives a worker the weight requests per second / utilization. Both are
averaged here with the same exponential window, so by Little's law the weight is the number of streams
that the worker takes at once divided by the time that it needs for one: a worker of half the speed gets
half the requests. With the load of the moment instead, a worker that has just emptied would weigh
infinitely much.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WINDOW_SECONDS = 10.0
"""What is older than this counts for less than a third."""


class Occupancy:
    """Counts streams while they are inside."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, window_seconds: float = WINDOW_SECONDS) -> None:
        self._clock = clock
        self._window_seconds = window_seconds
        self._at = clock()
        self._inside = 0
        self._streams = 0.0
        self._completed_per_second = 0.0

    @property
    def streams(self) -> float:
        """Streams inside, those that wait included, averaged over the window."""
        self._advance()
        return self._streams

    @property
    def completed_per_second(self) -> float:
        """Streams that came to their end, averaged over the window; failed ones did not."""
        self._advance()
        return self._completed_per_second

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Counts one stream until the block ends, as completed unless an exception ends it."""
        self._advance()
        self._inside += 1
        completed = 0
        try:
            yield
            completed = 1
        finally:
            self._advance()
            self._inside -= 1
            self._completed_per_second += completed / self._window_seconds

    def _advance(self) -> None:
        """Lets what was counted before now fade."""
        now = self._clock()
        kept = math.exp((self._at - now) / self._window_seconds)
        self._at = now
        self._streams = self._streams * kept + self._inside * (1 - kept)
        self._completed_per_second *= kept
