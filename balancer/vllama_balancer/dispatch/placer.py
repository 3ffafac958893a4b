"""Placement of one request: snapshot, pick and lease in one synchronous step, so that nothing changes in between."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from vllama_balancer.dispatch.trials import CALM_SECONDS, Trials
from vllama_balancer.routing.policy import Choice
from vllama_balancer.routing.snapshot import Demand
from vllama_balancer.workers.lease import take_lease
from vllama_balancer.workers.load import Reservation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from vllama_balancer.dispatch.placement_request import PlacementRequest
    from vllama_balancer.dispatch.retry_budget import RetryBudget
    from vllama_balancer.metrics import Metrics
    from vllama_balancer.routing.policy import Policy, Score
    from vllama_balancer.routing.snapshot import Snapshot
    from vllama_balancer.workers.lease import Lease
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.worker import Worker

logger = logging.getLogger(__name__)

MAX_SESSIONS = 10_000
"""The least recently used are dropped beyond this many."""


class Placer:
    """Takes and releases leases on workers."""

    def __init__(
        self,
        pool: Pool,
        policy: Policy,
        budget: RetryBudget,
        metrics: Metrics,
        rng: Random,
        calm_seconds: float = CALM_SECONDS,
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._budget = budget
        self.trials = Trials(pool, calm_seconds)
        self._metrics = metrics
        self._rng = rng
        self._sessions = Sessions()

    def place(self, request: PlacementRequest) -> Lease | None:
        """Picks a worker and takes a lease on it; None when none has room."""
        if request.needs_retry_budget and not self._budget.has_room:
            return None
        if request.needs_trial:
            return self._place_trial(request)
        snapshot = self._pool.snapshot(request.key, request.excluded)
        if request.is_suspect:
            snapshot = self._apart_from_suspects(snapshot)
        if not snapshot.candidates:
            return None
        demand = Demand(request.size.prompt_tokens, request.size.output_tokens, self._cached_tokens(request))
        choice = self._policy.pick(snapshot, demand, self._rng)
        worker = self._pool.find(choice.worker) if choice is not None else None
        if choice is None or worker is None:
            return None
        if logger.isEnabledFor(logging.DEBUG):
            _explain(request, choice, self._policy.explain(snapshot, demand))
        return self._take(request, worker, choice, demand)

    def place_unmetered(self, request: PlacementRequest) -> Lease | None:
        """Picks the least busy worker, with or without room, for a call that computes nothing."""
        workers = self._pool.available(request.key)
        others = [worker for worker in workers if worker.incarnation.boot_id not in request.excluded] or workers
        if not others:
            return None
        worker = min(others, key=lambda one: (one.lease_count, self._rng.random()))
        lease = take_lease(worker, Choice(worker.name, "unmetered"), Reservation(0, 0))
        lease.is_unmetered = True
        lease.request_id = request.request_id
        lease.record_history(request.crash_count, had_output=False)
        lease.needs_liveness_check = request.needs_liveness_check
        return lease

    def has_room_for_suspect(self, key: str) -> bool:
        """Returns whether a worker of the model has room and runs no suspect."""
        return any(not w.incarnation.suspects and w.candidate() is not None for w in self._pool.available(key))

    def first_token(self, lease: Lease) -> None:
        """Records that the prompt of a lease is computed, and that it no longer counts as a retry."""
        lease.first_token()
        self._leave_budget(lease)

    def release(self, lease: Lease) -> None:
        """Releases a lease; harmless when repeated."""
        lease.release()
        self.trials.end(lease)
        self._leave_budget(lease)

    def _place_trial(self, request: PlacementRequest) -> Lease | None:
        worker = self.trials.worker_for(request)
        if worker is None:
            return None
        demand = Demand(request.size.prompt_tokens, request.size.output_tokens, self._cached_tokens(request))
        lease = self._take(request, worker, Choice(worker.name, "trial"), demand)
        self.trials.begin(request, lease)
        return lease

    def _apart_from_suspects(self, snapshot: Snapshot) -> Snapshot:
        """Leaves out workers with a suspect: if one of them crashes, only one request may be the cause.

        Suspicion ends with the first token. A worker computes prompts one after the other anyway, so waiting for
        another suspect costs little.
        """
        apart = [one for one in snapshot.candidates if (w := self._pool.find(one.name)) and not w.incarnation.suspects]
        return snapshot._replace(candidates=tuple(apart))

    def _cached_tokens(self, request: PlacementRequest) -> dict[str, int]:
        """Returns the cached tokens predicted for each worker; the session's last worker counts as one token."""
        cached = self._sessions.hint(request.session)
        prefix = request.size.prefix
        if not prefix.keys:
            return cached
        most = request.size.prompt_tokens - 1  # the last token of a prompt is always computed
        # All workers of the model rather than the candidates: those would have to be looked up by name.
        first = prefix.keys[0]
        for worker in self._pool.available(request.key):
            if first in (index := worker.incarnation.prefix_index).blocks:
                cached[worker.name] = min(prefix.tokens(index.match(prefix)), most)
        return cached

    def _take(self, request: PlacementRequest, worker: Worker, choice: Choice, demand: Demand) -> Lease:
        cached = demand.cached_tokens.get(worker.name, 0)
        reservation = Reservation(demand.prompt_tokens - cached, demand.prompt_tokens + demand.output_tokens)
        lease = take_lease(worker, choice, reservation)
        lease.predicted_cached_tokens = cached
        lease.expected_output_tokens = demand.output_tokens
        lease.request_id = request.request_id
        lease.record_history(request.crash_count, had_output=request.has_output)
        lease.needs_liveness_check = request.needs_liveness_check
        worker.incarnation.prefix_index.insert(request.size.prefix)
        self._sessions.record(request.session, worker.name)
        if request.needs_retry_budget:
            self._budget.take()
            lease.uses_retry_budget = True
        self._metrics.placed(worker.name, choice.reason)
        return lease

    def _leave_budget(self, lease: Lease) -> None:
        if lease.uses_retry_budget:
            lease.uses_retry_budget = False
            self._budget.give_back()


class Sessions:
    """The last worker of each session: a hint that breaks ties.

    The prefix index usually predicts better. A session helps where two turns share too little text to be recognised,
    as with images, or token ids that a client has shortened.
    """

    def __init__(self) -> None:
        # Least recently used first.
        self._workers: OrderedDict[str, str] = OrderedDict()

    def record(self, session: str, worker: str) -> None:
        """Records the worker of a session's request; no effect without a session."""
        if not session:
            return
        self._workers[session] = worker
        self._workers.move_to_end(session)
        if len(self._workers) > MAX_SESSIONS:
            self._workers.popitem(last=False)

    def hint(self, session: str) -> dict[str, int]:
        """Returns the session's last worker with one cached token: enough to win among equals."""
        worker = self._workers.get(session)
        return {} if worker is None else {worker: 1}


def _explain(request: PlacementRequest, choice: Choice, scores: Sequence[Score]) -> None:
    """Logs the candidate table of a decision."""
    logger.debug("request %s goes to %s: %s", request.request_id, choice.worker, choice.reason)
    for score in scores:
        logger.debug(
            "request %s candidate %s: total %.4f s = prefill %.4f + decode %.4f + memory %.4f, cached %d",
            request.request_id,
            score.worker,
            score.total_seconds,
            score.prefill_seconds,
            score.decode_seconds,
            score.memory_seconds,
            score.cached_tokens,
        )
