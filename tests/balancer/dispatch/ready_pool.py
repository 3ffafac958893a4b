"""Ready workers without connections, and a placer over them."""

from __future__ import annotations

import time
from random import Random
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from vllama_balancer.dispatch.placement_request import PlacementRequest
from vllama_balancer.dispatch.placer import Placer
from vllama_balancer.dispatch.retry_budget import RetryBudget
from vllama_balancer.fleet.events import Added
from vllama_balancer.metrics import Metrics
from vllama_balancer.names import model_key
from vllama_balancer.routing.policies import make_policy
from vllama_balancer.routing.request_size import ModelEstimates, measure_generation
from vllama_balancer.workers.breaker import HealthSettings
from vllama_balancer.workers.pool import Pool
from vllama_balancer.workers.worker import Worker
from vllama_protos.v1 import generation_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import Callable


class ReadyPool(Pool):
    """Workers named w0, w1, … with so many streams each; all are ready and idle."""

    def __init__(self, *max_streams: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        for index, streams in enumerate(max_streams):
            worker = Worker(Added(f"w{index}", "x", ("m",)), None, HealthSettings(), self.changes, clock)
            self._workers[worker.name] = worker
            described = {"boot_id": f"b{index}", "models": ["m"], "max_streams": streams, "kv_cache_tokens": 200_000}
            worker.describe(worker_pb2.DescribeResponse(**described))
            self.report(index)

    def report(self, index: int, state: int = worker_pb2.WORKER_STATE_READY, **fields: float) -> None:
        """Makes a worker report."""
        message = worker_pb2.WorkerReport(boot_id=f"b{index}", state=state, **fields)
        self._workers[f"w{index}"].take_report(message)

    def worker(self, index: int) -> Worker:
        """Finds a worker by its number."""
        return self._workers[f"w{index}"]


def request_for(prompt: str = "x" * 800, **fields: object) -> PlacementRequest:
    """Makes a placement request."""
    size = measure_generation(generation_pb2.GenerateRequest(prompt=prompt), ModelEstimates())
    return PlacementRequest("r", model_key("m"), "c", size, **fields)


def placer_over(pool: Pool, policy: str = "expected-completion") -> Placer:
    """A placer with a random source of its own."""
    return Placer(pool, make_policy(policy), RetryBudget(lambda: 0), Metrics(CollectorRegistry()), Random(1))
