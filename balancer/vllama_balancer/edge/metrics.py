"""The Prometheus collectors of the edge."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_DURATION_BUCKETS = (0.005, 0.05, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

_RECENT = 120


class EdgeMetrics:
    """Counts and times HTTP requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        """All collectors of /metrics, the edge's own included."""
        self.requests = Counter(
            "vllama_http_requests_total",
            "HTTP requests answered, by path pattern and status; 499: the client left first.",
            ["path", "status"],
            registry=registry,
        )
        self.in_flight = Gauge("vllama_http_requests_in_flight", "HTTP requests being served.", registry=registry)
        self.duration = Histogram(
            "vllama_http_request_duration_seconds",
            "Time from a request's arrival to the end of its reply, by path pattern.",
            ["path"],
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self.ttft = Histogram(
            "vllama_http_time_to_first_token_seconds",
            "Time from a request's arrival to its first output, by path pattern.",
            ["path"],
            buckets=_TTFT_BUCKETS,
            registry=registry,
        )

        self._counters: dict[tuple[str, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self.recent_ttft_seconds: deque[float] = deque(maxlen=_RECENT)
        """Times to first token of the latest requests, oldest first; for the dashboard."""

    def record(self, path: str, status: int, duration_seconds: float, ttft_seconds: float | None) -> None:
        """Counts one finished request; `path` is a route's pattern, which bounds the number of labels."""
        self._counter(path, status).inc()
        self._histogram(path).observe(duration_seconds)
        if ttft_seconds is not None:
            self.ttft.labels(path).observe(ttft_seconds)
            self.recent_ttft_seconds.append(ttft_seconds)

    # Children are cached: looking one up by its labels takes longer than counting.

    def _counter(self, path: str, status: int) -> Counter:
        counter = self._counters.get((path, status))
        if counter is None:
            self._counters[path, status] = counter = self.requests.labels(path, str(status))
        return counter

    def _histogram(self, path: str) -> Histogram:
        histogram = self._histograms.get(path)
        if histogram is None:
            self._histograms[path] = histogram = self.duration.labels(path)
        return histogram
