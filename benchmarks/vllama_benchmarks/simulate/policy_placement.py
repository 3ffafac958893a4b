"""A placement by one of the balancer's own policies, with the balancer's own pool, workers, leases and prefix index.

This module replaces the dispatcher and the watchers of the real process: it calls the same methods in the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from prometheus_client import CollectorRegistry

from vllama_balancer.dispatch.placement_request import PlacementRequest
from vllama_balancer.dispatch.placer import Placer
from vllama_balancer.dispatch.retry_budget import RetryBudget
from vllama_balancer.fleet.events import Added, Changed, ProcessState
from vllama_balancer.metrics import Metrics
from vllama_balancer.names import model_key
from vllama_balancer.routing.prefix_index import Prefix
from vllama_balancer.routing.request_size import ModelEstimates, RequestSize
from vllama_balancer.workers.breaker import HealthSettings
from vllama_balancer.workers.pool import Pool
from vllama_balancer.workers.worker import Worker
from vllama_benchmarks.simulate.workload import BLOCK_TOKENS
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllama_balancer.routing.policy import Policy
    from vllama_balancer.workers.channel import Channel
    from vllama_balancer.workers.lease import Lease
    from vllama_benchmarks.simulate.engine_model import EngineModel, LoadReport
    from vllama_benchmarks.simulate.placement import PlacementContext
    from vllama_benchmarks.simulate.workload import Request

MODEL = "simulated"
"""The model of every request."""
LONG_AGO_SECONDS = -3600.0
"""When the fleet was started: its workers are warm when the clock starts at 0."""


class SimulatedPool(Pool):
    """A pool whose workers have no connection: their reports are passed in."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)

    def _add(self, event: Added) -> None:
        # No call is ever made on the channel: only watchers and the dispatcher use it.
        unused = cast("Channel", None)
        self._workers[event.name] = Worker(event, unused, HealthSettings(), self.changes, self._clock)

    def worker(self, index: int) -> Worker:
        return self._workers[name_of(index)]


def name_of(index: int) -> str:
    return f"worker-{index}"


def index_of(name: str) -> int:
    return int(name.removeprefix("worker-"))


class PolicyPlacement:
    """Places requests by a policy of the balancer."""

    def __init__(self, context: PlacementContext, policy: Policy, *, index_replies: bool = True) -> None:
        """`index_replies`: expect a generated reply in its worker's cache, as the balancer does."""
        self._index_replies = index_replies
        self._now = LONG_AGO_SECONDS
        self._engines = context.engines
        self._pool = SimulatedPool(lambda: self._now)
        self._key = model_key(MODEL)
        self._estimates = ModelEstimates()
        self._leases: dict[Request, Lease] = {}
        budget = RetryBudget(lambda: len(self._leases))
        self._placer = Placer(self._pool, policy, budget, Metrics(CollectorRegistry()), context.rng)
        for index in range(context.workers):
            self._pool.apply(Added(name_of(index), address="", models=(MODEL,)))
            self._describe_worker(index)

    def place(self, now: float, request: Request, available: Sequence[int]) -> int:
        self._now = now
        lease = self._placer.place(PlacementRequest("", self._key, "", self._size(request)))
        if lease is None:
            raise RuntimeError("no worker has room: the simulated load is larger than the fleet's batches")
        self._leases[request] = lease
        return index_of(lease.worker.name)

    def started(self, now: float, request: Request, cached_tokens: int) -> None:
        self._now = now
        self._leases[request].started(request.turn.prompt_tokens + request.delivered_tokens, cached_tokens)

    def first_token(self, now: float, request: Request) -> None:
        self._now = now
        self._placer.first_token(self._leases[request])

    def ended(self, now: float, request: Request, output_tokens: int) -> None:
        self._now = now
        self._estimates.finished(request.delivered_tokens + output_tokens)
        lease = self._leases.pop(request)
        if self._index_replies:
            lease.record_cached_prefix(Prefix(request.turn.answered_blocks, BLOCK_TOKENS))
        self._placer.release(lease)

    def lost(self, now: float, request: Request) -> None:
        self._now = now
        self._placer.release(self._leases.pop(request))

    def report(self, now: float, worker: int, report: LoadReport) -> None:
        self._now = now
        message = worker_pb2.WorkerReport(
            state=worker_pb2.WORKER_STATE_READY,
            running=report.running,
            waiting=report.waiting,
            kv_cache_use=report.kv_cache_use,
            queued_prompt_tokens=report.queued_prompt_tokens,
            prefill_tokens_per_second=report.prefill_tokens_per_second,
        )
        message.step.FromNanoseconds(round(report.step_seconds * 1e9))
        self._pool.worker(worker).take_report(message)

    def left(self, now: float, worker: int) -> None:
        self._now = now
        self._pool.apply(Changed(name_of(worker), ProcessState.RESTARTING))

    def joined(self, now: float, worker: int) -> None:
        self._now = now
        self._pool.apply(Changed(name_of(worker), ProcessState.RUNNING))
        self._describe_worker(worker)

    def _describe_worker(self, index: int) -> None:
        self._pool.worker(index).describe(describe(index, self._engines[index], f"{index}@{self._now}"))

    def _size(self, request: Request) -> RequestSize:
        turn = request.turn
        # An exact count, as the estimate of bytes per token is for one language and one tokenizer.
        tokens = turn.prompt_tokens + request.delivered_tokens
        expected = int(self._estimates.output_tokens)
        output = expected if turn.max_tokens is None else min(turn.max_tokens, expected)
        return RequestSize(4 * tokens, tokens, output, Prefix(turn.blocks, BLOCK_TOKENS))


def describe(index: int, engine: EngineModel, boot_id: str) -> worker_pb2.DescribeResponse:
    """Returns the description that a real worker of this profile would send."""
    profile = engine.profile
    return worker_pb2.DescribeResponse(
        worker=name_of(index),
        boot_id=boot_id,
        models=[MODEL],
        max_streams=profile.max_streams,
        kv_cache_tokens=profile.kv_cache_tokens,
        block_tokens=profile.block_tokens,
        simulated=True,
    )
