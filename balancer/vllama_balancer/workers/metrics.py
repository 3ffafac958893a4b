"""Metrics of the pool's present state, read at each scrape, so that no number is stale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import Metric

    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.worker import Worker


class PoolCollector(Collector):
    """Reads the pool at every scrape; register it with a registry."""

    def __init__(self, pool: Pool, waiting: Callable[[], int]) -> None:
        """`waiting` returns the number of waiting requests."""
        self._pool = pool
        self._waiting = waiting

    def collect(self) -> Iterable[Metric]:
        workers = self._pool.workers()
        yield GaugeMetricFamily(
            "vllama_queue_length", "Requests that wait for a worker, or for their model, now.", value=self._waiting()
        )
        available = GaugeMetricFamily(
            "vllama_worker_available", "Whether new requests may go to a worker: 1 or 0.", labels=["worker"]
        )
        asleep = GaugeMetricFamily(
            "vllama_worker_asleep",
            "Whether a worker's model sleeps until a request wakes it: 1 or 0.",
            labels=["worker"],
        )
        streams = GaugeMetricFamily(
            "vllama_worker_streams", "Streams that this balancer has on a worker.", labels=["worker"]
        )
        prompts = GaugeMetricFamily(
            "vllama_worker_pending_prompt_tokens",
            "Uncached prompt tokens on a worker before their first token.",
            labels=["worker"],
        )
        ejections = CounterMetricFamily(
            "vllama_worker_ejections", "Times a worker was taken out of placement for its health.", labels=["worker"]
        )
        restarts = CounterMetricFamily(
            "vllama_worker_restarts", "Times a worker was started again after it died.", labels=["worker"]
        )
        for worker in workers:
            available.add_metric([worker.name], 0.0 if worker.unavailable else 1.0)
            asleep.add_metric([worker.name], float(_is_asleep(worker)))
            streams.add_metric([worker.name], worker.lease_count)
            prompts.add_metric([worker.name], worker.incarnation.load.prompt_tokens)
            ejections.add_metric([worker.name], worker.breaker.ejections_total)
            restarts.add_metric([worker.name], worker.process.restarts)
        yield from (available, asleep, streams, prompts, ejections, restarts)


def _is_asleep(worker: Worker) -> bool:
    is_reported = worker.report is not None and worker.report.state == worker_pb2.WORKER_STATE_SLEEPING
    return is_reported and worker.is_connected
