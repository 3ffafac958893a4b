"""The time of one placement decision: snapshot, prefix index, pick and reservation, on the real clock.

The fleet is busy: every worker carries streams, workers report in turn, and for each decision one lease is returned,
so that the bookkeeping's caches are as stale as in service. Half of the requests continue a conversation, half are
new. Only the decision is timed: the size of a request is estimated once, however often it is placed.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from vllama_balancer.dispatch.placement_request import PlacementRequest
from vllama_balancer.dispatch.placer import Placer
from vllama_balancer.dispatch.retry_budget import RetryBudget
from vllama_balancer.fleet.events import Added
from vllama_balancer.metrics import Metrics
from vllama_balancer.names import model_key
from vllama_balancer.routing.prefix_index import Prefix
from vllama_balancer.routing.request_size import RequestSize
from vllama_benchmarks.simulate.engine_model import EngineModel
from vllama_benchmarks.simulate.outcome import percentile
from vllama_benchmarks.simulate.policy_placement import MODEL, SimulatedPool, describe, name_of
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from vllama_balancer.routing.policy import Policy
    from vllama_balancer.workers.lease import Lease

FLEETS = (1, 4, 16)
"""Fleet sizes that are measured."""
STREAMS_PER_WORKER = 3
"""Fifty streams on sixteen workers."""
PROMPT_BLOCKS = 10
"""Blocks of a prompt: some six hundred tokens."""
TOKENS_PER_BLOCK = 64.0
"""Tokens of each."""
BATCH = 250
"""Decisions of one batch."""
DECISIONS_PER_REPORT = 4
"""Decisions between two reports: forty a second beside ten reports."""


@dataclass(frozen=True, slots=True)
class DecisionTime:
    """Durations of many decisions."""

    workers: int
    """Candidates of each."""
    calm_seconds: float
    """Median of the fastest batch: the cost of a decision while nothing else runs."""
    median_seconds: float
    """Median of all decisions."""
    p99_seconds: float
    """99th percentile of all decisions."""

    def __str__(self) -> str:
        calm, median, p99 = (x * 1e6 for x in (self.calm_seconds, self.median_seconds, self.p99_seconds))
        return f"{self.workers:3} workers: {calm:.1f} us a decision in a calm batch, median {median:.1f}, p99 {p99:.1f}"


def measure(policy: Policy, workers: int, decisions: int = 10_000) -> DecisionTime:
    """Times decisions one after the other."""
    pool = _pool(workers)
    placer = Placer(pool, policy, RetryBudget(lambda: 0), Metrics(CollectorRegistry()), Random(1))
    rng, seconds = Random(2), []
    running: deque[Lease] = deque()
    for number in range(decisions):
        if len(running) == STREAMS_PER_WORKER * workers:
            placer.release(running.popleft())
        if number % DECISIONS_PER_REPORT == 0:
            _report(pool, rng.randrange(workers))
        request = _placement_request(number if rng.random() < 0.5 else rng.randrange(number + 1))
        start = time.perf_counter()
        lease = placer.place(request)
        seconds.append(time.perf_counter() - start)
        assert lease is not None
        running.append(lease)
        placer.first_token(running[rng.randrange(len(running))])
    # Other load on the machine only adds time, so the fastest batch is nearest to the true cost.
    batches = [sorted(seconds[start : start + BATCH]) for start in range(0, decisions, BATCH)]
    calm = min(percentile(batch, 0.50) for batch in batches)
    return DecisionTime(workers, calm, percentile(sorted(seconds), 0.50), percentile(sorted(seconds), 0.99))


def _placement_request(conversation: int) -> PlacementRequest:
    keys = [hash((conversation, block)) for block in range(PROMPT_BLOCKS)]
    tokens = int(PROMPT_BLOCKS * TOKENS_PER_BLOCK)
    return PlacementRequest(
        "", model_key(MODEL), "", RequestSize(4 * tokens, tokens, 128, Prefix(keys, TOKENS_PER_BLOCK))
    )


def _pool(workers: int) -> SimulatedPool:
    """Returns a fleet whose workers have been warm for an hour."""
    began = time.monotonic()
    pool, engine = SimulatedPool(time.monotonic), EngineModel()
    for index in range(workers):
        pool.apply(Added(name_of(index), address="", models=(MODEL,)))
        worker = pool.worker(index)
        worker.describe(describe(index, engine, str(index)))
        worker.incarnation.load.ready_at = began - 3600.0
        _report(pool, index)
    return pool


def _report(pool: SimulatedPool, index: int) -> None:
    worker = pool.worker(index)
    report = worker_pb2.WorkerReport(
        state=worker_pb2.WORKER_STATE_READY,
        running=worker.lease_count,
        kv_cache_use=0.1,
        prefill_tokens_per_second=20_000.0,
    )
    report.step.FromNanoseconds(10_000_000 + 200_000 * worker.lease_count)
    worker.take_report(report)
