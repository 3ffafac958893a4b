"""Places one request: snapshot, pick and reserve in one synchronous step, so nothing changes between."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllama_balancer.placement.sessions import Sessions
from vllama_balancer.placement.snapshot import Demand
from vllama_balancer.policies.policy import Choice
from vllama_balancer.workers.load import Promise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from vllama_balancer.dispatch.retry_budget import RetryBudget
    from vllama_balancer.metrics import Metrics
    from vllama_balancer.placement.measure import Size
    from vllama_balancer.placement.snapshot import Snapshot
    from vllama_balancer.policies.policy import Policy, Score
    from vllama_balancer.workers.lease import Lease
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.worker import Worker

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Ticket:
    """What a request shows to get a place, the first time and after every failure."""

    request_id: str
    """For the log."""
    key: str
    """Model key."""
    client: str
    """Key for fair turns."""
    size: Size
    """What it will probably cost."""
    session: str = ""
    """The conversation it belongs to, when the client says so."""
    priority: int = 0
    """Lower ones of the same client are placed first."""
    excluded: set[str] = field(default_factory=set)
    """Lives of workers (boot ids) that have failed it; others are preferred."""
    is_returning: bool = False
    """Whether it had a place before: it goes ahead of those that have had none."""
    needs_retry_budget: bool = False
    """Whether its last attempt was answered with an error."""
    is_wary: bool = False
    """Whether its last worker was lost: the next one has to say that it lives before it gets the request."""
    kills: int = 0
    """Deaths of workers that it was blamed for."""
    has_output: bool = False
    """Whether any worker has generated anything for it."""

    @property
    def is_suspect(self) -> bool:
        """Whether it has been blamed for a death, and nothing speaks for it yet."""
        return self.kills > 0 and not self.has_output


class Placer:
    """Gives places on workers and takes them back."""

    def __init__(self, pool: Pool, policy: Policy, budget: RetryBudget, metrics: Metrics, rng: Random) -> None:
        self._pool = pool
        self._policy = policy
        self._budget = budget
        self._metrics = metrics
        self._rng = rng
        self._sessions = Sessions()

    def place(self, ticket: Ticket) -> Lease | None:
        """Picks a worker and reserves a place there; None when none has room."""
        if ticket.needs_retry_budget and not self._budget.has_room:
            return None
        snapshot = self._pool.snapshot(ticket.key, ticket.excluded)
        if ticket.is_suspect:
            snapshot = self._apart_from_suspects(snapshot)
        if not snapshot.candidates:
            return None
        demand = Demand(ticket.size.prompt_tokens, ticket.size.output_tokens, self._believed(ticket))
        choice = self._policy.pick(snapshot, demand, self._rng)
        worker = self._pool.find(choice.worker) if choice is not None else None
        if choice is None or worker is None:
            return None
        if logger.isEnabledFor(logging.DEBUG):
            _explain(ticket, choice, self._policy.explain(snapshot, demand))
        return self._reserve(ticket, worker, choice, demand)

    def visit(self, ticket: Ticket) -> Lease | None:
        """Picks the least busy worker for a call that computes nothing, with or without room."""
        workers = self._pool.available(ticket.key)
        others = [worker for worker in workers if worker.life.boot_id not in ticket.excluded] or workers
        if not others:
            return None
        worker = min(others, key=lambda one: (one.leases, self._rng.random()))
        lease = worker.lease(Choice(worker.name, "visit"), Promise(0, 0), ticket.request_id)
        lease.is_visit = True
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

    def _believed(self, ticket: Ticket) -> dict[str, int]:
        """Looks up what each worker has cached; where a session was last counts as one token of it."""
        believed = self._sessions.hint(ticket.session)
        prefix = ticket.size.prefix
        if not prefix.keys:
            return believed
        most = ticket.size.prompt_tokens - 1  # the last token of a prompt is always computed
        # All workers of the model rather than the candidates: those have to be looked up by name.
        first = prefix.keys[0]
        for worker in self._pool.available(ticket.key):
            if first in (belief := worker.life.belief).blocks:
                believed[worker.name] = min(prefix.tokens(belief.held_blocks(prefix)), most)
        return believed

    def _reserve(self, ticket: Ticket, worker: Worker, choice: Choice, demand: Demand) -> Lease:
        cached = demand.cached_tokens.get(worker.name, 0)
        promise = Promise(demand.prompt_tokens - cached, demand.prompt_tokens + demand.output_tokens)
        lease = worker.lease(choice, promise, ticket.request_id)
        lease.believed_tokens = cached
        lease.expected_output_tokens = demand.output_tokens
        lease.kills = ticket.kills
        lease.is_wary = ticket.is_wary
        lease.had_output = ticket.has_output
        worker.life.belief.hold(ticket.size.prefix)
        self._sessions.went(ticket.session, worker.name)
        if ticket.needs_retry_budget:
            self._budget.take()
            lease.uses_retry_budget = True
        self._metrics.placed(worker.name, choice.reason)
        return lease

    def _leave_budget(self, lease: Lease) -> None:
        if lease.uses_retry_budget:
            lease.uses_retry_budget = False
            self._budget.give_back()


def _explain(ticket: Ticket, choice: Choice, scores: Sequence[Score]) -> None:
    """Logs the candidate table of a decision."""
    logger.debug("request %s goes to %s: %s", ticket.request_id, choice.worker, choice.reason)
    for score in scores:
        logger.debug(
            "request %s candidate %s: total %.4f s = prefill %.4f + decode %.4f + memory %.4f, cached %d",
            ticket.request_id,
            score.worker,
            score.total_seconds,
            score.prefill_seconds,
            score.decode_seconds,
            score.memory_seconds,
            score.cached_tokens,
        )
