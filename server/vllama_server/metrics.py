"""The worker's Prometheus collectors, and the HTTP server that shows them."""

from __future__ import annotations

import errno
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import Counter, Enum, Gauge, Histogram, start_http_server

from vllama_protos.enums import value_name
from vllama_protos.v1 import worker_pb2
from vllama_server.errors import ConfigError, StartFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry

    from vllama_protos.v1 import generation_pb2
    from vllama_server.engine.protocol import EngineLoad

logger = logging.getLogger(__name__)

SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
STATES = {
    value: value_name(worker_pb2.WorkerState, value).lower() for value in worker_pb2.WorkerState.values() if value
}
"""Labels of the worker's states."""


class WorkerMetrics:
    """Every collector of the worker, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "vllama_worker_requests",
            "Calls that ended, by method and gRPC status.",
            ("method", "code"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "vllama_worker_request_seconds",
            "Time of a call from its arrival to its end.",
            ("method",),
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.time_to_first_token_seconds = Histogram(
            "vllama_worker_time_to_first_token_seconds",
            "Time from the arrival of a Generate call to its first token.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "vllama_worker_prompt_tokens", "Prompt tokens of completed generations.", registry=registry
        )
        self.cached_prompt_tokens = Counter(
            "vllama_worker_cached_prompt_tokens", "Those of them that the prefix cache held.", registry=registry
        )
        self.completion_tokens = Counter(
            "vllama_worker_completion_tokens", "Generated tokens of completed generations.", registry=registry
        )
        self.requests_in_flight = Gauge(
            "vllama_worker_requests_in_flight", "Calls inside the worker, waiting ones included.", registry=registry
        )
        self._running = Gauge("vllama_worker_streams_running", "Streams in the engine's batch.", registry=registry)
        self._waiting = Gauge("vllama_worker_streams_waiting", "Streams that wait for the batch.", registry=registry)
        self._kv_cache_use = Gauge(
            "vllama_worker_kv_cache_use_ratio", "Share of the KV cache in use.", registry=registry
        )
        self._queued_prompt_tokens = Gauge(
            "vllama_worker_queued_prompt_tokens", "Prompt tokens accepted and not yet computed.", registry=registry
        )
        self._prefix_hit_ratio = Gauge(
            "vllama_worker_prefix_hit_ratio", "Share of prompt tokens found in the prefix cache.", registry=registry
        )
        self._state = Enum(
            "vllama_worker_state", "What the worker is doing.", states=list(STATES.values()), registry=registry
        )

    def record_finished(self, usage: generation_pb2.Usage) -> None:
        """Counts the tokens of a completed generation."""
        self.prompt_tokens.inc(usage.prompt_tokens)
        self.cached_prompt_tokens.inc(usage.cached_prompt_tokens)
        self.completion_tokens.inc(usage.completion_tokens)

    def record_load(self, state: worker_pb2.WorkerState, load: EngineLoad) -> None:
        """Sets the gauges. Scrapes come from another thread and read only these, never the engine."""
        self._state.state(STATES[state])
        self._running.set(load.running)
        self._waiting.set(load.waiting)
        self._kv_cache_use.set(load.kv_cache_use)
        self._queued_prompt_tokens.set(load.queued_prompt_tokens)
        self._prefix_hit_ratio.set(load.prefix_hit_rate)


@contextmanager
def metrics_server(address: str | None, registry: CollectorRegistry) -> Iterator[int | None]:
    """Serves the registry on host:port until the block ends and yields the real port; None serves nothing.

    Raises StartFailed when the address is in use, ConfigError when it can never be used.
    """
    if address is None:
        yield None
        return
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        kind = StartFailed if error.errno == errno.EADDRINUSE else ConfigError
        raise kind(f"--metrics: cannot listen on {address}: {error.strerror or error}; pass another address.") from None
    logger.info("metrics on http://%s:%d/metrics", host, server.server_port)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
