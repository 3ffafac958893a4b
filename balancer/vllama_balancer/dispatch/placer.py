"""Places one request: snapshot, pick and reserve in one synchronous step, so nothing changes between.

Remembers where each conversation was served last: a hint that breaks ties, and nothing more.

The belief about prefixes usually knows better; a session helps where two turns share too little
text to be recognised, as with pictures or token ids that a client has shortened.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllama_balancer.routing.policy import Choice
from vllama_balancer.routing.snapshot import Demand
from vllama_balancer.workers.load import Reservation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from vllama_balancer.dispatch.retry_budget import RetryBudget
    from vllama_balancer.metrics import Metrics
    from vllama_balancer.routing.policy import Policy, Score
    from vllama_balancer.routing.request_size import RequestSize
    from vllama_balancer.routing.snapshot import Snapshot
    from vllama_balancer.workers.lease import Lease
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.worker import Worker


logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class PlacementRequest:
    """What a request shows to get a place, the first time and after every failure."""

    request_id: str
    """For the log."""
    key: str
    """Model key."""
    client: str
    """Key for fair turns."""
    size: RequestSize
    """What it will probably cost."""
    session: str = ""
    """The conversation it belongs to, when the client says so."""
    priority: int = 0
    """Lower ones of the same client are placed first."""
    excluded: set[str] = field(default_factory=set)
    """Lives of workers (boot ids) that have failed it; others are preferred."""
    is_retry: bool = False
    """Whether it had a place before: it goes ahead of those that have had none."""
    needs_retry_budget: bool = False
    """Whether its last attempt was answered with an error."""
    needs_liveness_check: bool = False
    """Whether its last worker was lost: the next one has to say that it lives before it gets the request."""
    crash_count: int = 0
    """Deaths of workers that it was blamed for."""
    has_output: bool = False
    """Whether any worker has generated anything for it."""

    @property
    def is_suspect(self) -> bool:
        """Whether it has been blamed for a death, and nothing speaks for it yet."""
        return self.crash_count > 0 and not self.has_output


class Placer:
    """Gives places on workers and takes them back."""

    def __init__(self, pool: Pool, policy: Policy, budget: RetryBudget, metrics: Metrics, rng: Random) -> None:
        self._pool = pool
        self._policy = policy
        self._budget = budget
        self._metrics = metrics
        self._rng = rng
        self._sessions = Sessions()

    def place(self, request: PlacementRequest) -> Lease | None:
        """Picks a worker and reserves a place there; None when none has room."""
        if request.needs_retry_budget and not self._budget.has_room:
            return None
        snapshot = self._pool.snapshot(request.key, request.excluded)
        if request.is_suspect:
            snapshot = self._apart_from_suspects(snapshot)
        if not snapshot.candidates:
            return None
        demand = Demand(request.size.prompt_tokens, request.size.output_tokens, self._believed(request))
        choice = self._policy.pick(snapshot, demand, self._rng)
        worker = self._pool.find(choice.worker) if choice is not None else None
        if choice is None or worker is None:
            return None
        if logger.isEnabledFor(logging.DEBUG):
            _explain(request, choice, self._policy.explain(snapshot, demand))
        return self._reserve(request, worker, choice, demand)

    def place_unmetered(self, request: PlacementRequest) -> Lease | None:
        """Picks the least busy worker for a call that computes nothing, with or without room."""
        workers = self._pool.available(request.key)
        others = [worker for worker in workers if worker.incarnation.boot_id not in request.excluded] or workers
        if not others:
            return None
        worker = min(others, key=lambda one: (one.leases, self._rng.random()))
        lease = worker.lease(Choice(worker.name, "unmetered"), Reservation(0, 0), request.request_id)
        lease.is_unmetered = True
        return lease

    def first_token(self, lease: Lease) -> None:
        """Notes that the prompt of a lease is computed, and that it is no retry any more."""
        lease.first_token()
        self._leave_budget(lease)

    def release(self, lease: Lease) -> None:
        """Takes a place back; harmless when repeated."""
        lease.release()
        self._leave_budget(lease)

    def _apart_from_suspects(self, snapshot: Snapshot) -> Snapshot:
        """Leaves out workers with a suspect aboard: if one of them dies, it must be clear of whom.

        Suspicion ends with the first token, and prompts are computed one after the other anyway,
        so waiting for another suspect costs little.
        """
        apart = [one for one in snapshot.candidates if (w := self._pool.find(one.name)) and not w.has_suspect]
        return snapshot._replace(candidates=tuple(apart))

    def _believed(self, request: PlacementRequest) -> dict[str, int]:
        """Looks up what each worker has cached; where a session was last counts as one token of it."""
        believed = self._sessions.hint(request.session)
        prefix = request.size.prefix
        if not prefix.keys:
            return believed
        most = request.size.prompt_tokens - 1  # the last token of a prompt is always computed
        # All workers of the model rather than the candidates: those have to be looked up by name.
        first = prefix.keys[0]
        for worker in self._pool.available(request.key):
            if first in (belief := worker.incarnation.prefix_index).blocks:
                believed[worker.name] = min(prefix.tokens(belief.held_blocks(prefix)), most)
        return believed

    def _reserve(self, request: PlacementRequest, worker: Worker, choice: Choice, demand: Demand) -> Lease:
        cached = demand.cached_tokens.get(worker.name, 0)
        promise = Reservation(demand.prompt_tokens - cached, demand.prompt_tokens + demand.output_tokens)
        lease = worker.lease(choice, promise, request.request_id)
        lease.predicted_cached_tokens = cached
        lease.expected_output_tokens = demand.output_tokens
        lease.crash_count = request.crash_count
        lease.needs_liveness_check = request.needs_liveness_check
        lease.had_output = request.has_output
        worker.incarnation.prefix_index.hold(request.size.prefix)
        self._sessions.went(request.session, worker.name)
        if request.needs_retry_budget:
            self._budget.take()
            lease.uses_retry_budget = True
        self._metrics.placed(worker.name, choice.reason)
        return lease

    def _leave_budget(self, lease: Lease) -> None:
        if lease.uses_retry_budget:
            lease.uses_retry_budget = False
            self._budget.give_back()


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


MOST_SESSIONS = 10_000
"""The least recently seen are forgotten beyond this many."""


class Sessions:
    """The last worker of each session."""

    def __init__(self) -> None:
        # Least recently seen first.
        self._workers: OrderedDict[str, str] = OrderedDict()

    def went(self, session: str, worker: str) -> None:
        """Notes where a session's request went; no session is no news."""
        if not session:
            return
        self._workers[session] = worker
        self._workers.move_to_end(session)
        if len(self._workers) > MOST_SESSIONS:
            self._workers.popitem(last=False)

    def hint(self, session: str) -> dict[str, int]:
        """Weighs the session's last worker with one cached token: enough to win among equals."""
        worker = self._workers.get(session)
        return {} if worker is None else {worker: 1}
