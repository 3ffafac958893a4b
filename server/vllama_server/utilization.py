"""Recent utilization of the worker, and the ORCA load report in the trailers of its generations.

A client's `weighted_round_robin` gives a worker the weight requests per second / utilization. Both are averaged here
with the same exponential window. By Little's law the weight is then the number of streams that the worker takes at
once divided by the time of one stream: a worker of half the speed gets half the requests. With the momentary load
instead, the weight of a worker that has just become idle would be infinite.

The report is an `xds.data.orca.v3.OrcaLoadReport` of four fields. It is encoded by hand: the package that defines the
message brings all of Envoy's API along, and the wire format is fixed.
"""

from __future__ import annotations

import math
import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vllama_server.engine.protocol import EngineLoad


WINDOW_SECONDS = 10.0
"""What is older than this has a weight below a third."""


class Utilization:
    """Averages over running and completed streams."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, window_seconds: float = WINDOW_SECONDS) -> None:
        self._clock = clock
        self._window_seconds = window_seconds
        self._at = clock()
        self._in_flight = 0
        self._streams = 0.0
        self._completed_per_second = 0.0

    @property
    def streams(self) -> float:
        """Running and waiting streams, averaged over the window."""
        self._advance()
        return self._streams

    @property
    def completed_per_second(self) -> float:
        """Completed streams per second, averaged over the window; failed ones do not count."""
        self._advance()
        return self._completed_per_second

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Counts one stream until the block ends, as completed unless an exception ends it."""
        self._advance()
        self._in_flight += 1
        completed = 0
        try:
            yield
            completed = 1
        finally:
            self._advance()
            self._in_flight -= 1
            self._completed_per_second += completed / self._window_seconds

    def _advance(self) -> None:
        """Decays the averages to now."""
        now = self._clock()
        kept = math.exp((self._at - now) / self._window_seconds)
        self._at = now
        self._streams = self._streams * kept + self._in_flight * (1 - kept)
        self._completed_per_second *= kept


LOAD_REPORT_TRAILER = "endpoint-load-metrics-bin"

_MEM_UTILIZATION = 2
_RPS_FRACTIONAL = 6
_NAMED_METRICS = 8
_APPLICATION_UTILIZATION = 9
_FIXED64 = 1
_LENGTH_DELIMITED = 2


def load_report(load: EngineLoad, utilization: Utilization, max_streams: int) -> bytes:
    """Returns the encoded report; the application's utilization is above 1 while requests wait."""
    named = {
        "vllama.running": float(load.running),
        "vllama.waiting": float(load.waiting),
        "vllama.queued_prompt_tokens": float(load.queued_prompt_tokens),
    }
    return (
        _double(_MEM_UTILIZATION, load.kv_cache_use)
        + _double(_RPS_FRACTIONAL, utilization.completed_per_second)
        + _map(_NAMED_METRICS, named)
        + _double(_APPLICATION_UTILIZATION, utilization.streams / max_streams)
    )


def _double(number: int, value: float) -> bytes:
    return bytes((number << 3 | _FIXED64,)) + struct.pack("<d", value)


def _map(number: int, entries: Mapping[str, float]) -> bytes:
    return b"".join(_field(number, _field(1, key.encode()) + _double(2, value)) for key, value in entries.items())


def _field(number: int, content: bytes) -> bytes:
    # Every content here is shorter than 128 bytes, so one byte states its length.
    return bytes((number << 3 | _LENGTH_DELIMITED, len(content))) + content
