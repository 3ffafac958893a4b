"""A lease: one request's place on one worker, counted from the pick to the end of its stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.workers.attempt_errors import FailureKind
from vllama_balancer.workers.load import Reservation
from vllama_balancer.workers.poison import PROGRESS_SECONDS, UNDERWAY_TOKENS, CancelledRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.routing.policy import Choice
    from vllama_balancer.routing.prefix_index import Prefix
    from vllama_balancer.workers.incarnation import Incarnation
    from vllama_balancer.workers.worker import Worker


class Lease:
    """A place on a worker. Counts fall when the prompt is computed and at the release, exactly once each.

    It belongs to one incarnation of the worker: its counts end with that one.
    """

    __slots__ = (
        "_cancel_call",
        "_first_token_at",
        "_is_prompt_computed",
        "_is_released",
        "_reservation",
        "_tokens",
        "abandoned",
        "abandoned_as",
        "choice",
        "crash_count",
        "expected_output_tokens",
        "had_output",
        "has_answer",
        "has_progress",
        "incarnation",
        "is_blamed",
        "is_trial",
        "is_underway",
        "is_unmetered",
        "needs_liveness_check",
        "predicted_cached_tokens",
        "produced",
        "request_id",
        "taken_at",
        "uses_retry_budget",
        "worker",
    )

    def __init__(self, worker: Worker, choice: Choice, reservation: Reservation) -> None:
        self.worker = worker
        self.incarnation: Incarnation = worker.incarnation
        """The worker's incarnation at the time of the pick."""
        self.choice = choice
        """The worker's name and the reason of the pick."""
        self.request_id = ""
        self.predicted_cached_tokens = 0
        """Prompt tokens that the prefix index expects in the worker's cache."""
        self.expected_output_tokens = 0
        """Output tokens for which KV cache is reserved."""
        self.crash_count = 0
        """Crashes that the request was blamed for before this attempt."""
        self.had_output = False
        """Whether an earlier worker generated anything for the request."""
        self.is_trial = False
        """Whether the request is tried alone here, because it was blamed for crashes."""
        self.is_unmetered = False
        """Whether the call computes nothing on the engine, such as Tokenize."""
        self.needs_liveness_check = False
        """Whether the worker has to prove that it lives before the request is sent."""
        self.uses_retry_budget = False
        """Whether this is a retry counted by the budget."""
        self.taken_at = worker.now()
        """On the worker's clock."""
        self.produced = False
        """Whether the worker has generated anything for it."""
        self.is_underway = False
        """Whether it is far into its output on this worker."""
        self.has_progress = False
        """Whether it has made real progress here, which forgives earlier crashes."""
        self.has_answer = False
        """Whether the worker has ended its work on the request by an answer."""
        self.abandoned = ""
        """Why the balancer has given this attempt up; empty while it has not."""
        self.abandoned_as = FailureKind.LOST
        """The kind of failure of an attempt that was given up."""
        self.is_blamed = False
        """Whether the request is held responsible for the crash of this incarnation."""
        self._reservation = reservation
        self._is_prompt_computed = False
        self._is_released = False
        self._cancel_call: Callable[[], object] | None = None
        self._tokens = 0
        self._first_token_at = 0.0

    @property
    def is_suspect(self) -> bool:
        """Whether its request was blamed for a crash and no worker has generated anything for it since."""
        return self.crash_count > 0 and not (self.produced or self.had_output)

    def attach(self, cancel_call: Callable[[], object]) -> None:
        """Sets how the call under the lease is cancelled; cancels it at once if the lease was given up already."""
        self._cancel_call = cancel_call
        if self.abandoned:
            cancel_call()

    def started(self, prompt_tokens: int, cached_tokens: int) -> None:
        """Replaces the estimates by the worker's own counts."""
        actual = Reservation(prompt_tokens - cached_tokens, prompt_tokens + self.expected_output_tokens)
        if not self._is_prompt_computed and not self._is_released:
            self.incarnation.load.correct(self._reservation, actual)
            self._reservation = actual
        if cached_tokens < self.predicted_cached_tokens:
            self.incarnation.prefix_index.evict(self.predicted_cached_tokens - cached_tokens)

    def record_history(self, crash_count: int, *, had_output: bool) -> None:
        """Sets what happened to the request on earlier workers."""
        self.incarnation.suspects -= self.is_suspect
        self.crash_count, self.had_output = crash_count, had_output
        self.incarnation.suspects += self.is_suspect

    def first_token(self) -> None:
        """Takes the prompt off the worker's count: it is computed."""
        if not self.produced:
            self._first_token_at = self.worker.now()
            if not self.is_unmetered:
                self.worker.record_first_token(self.taken_at)
            self.incarnation.suspects -= self.is_suspect
        self.produced = True
        self._take_prompt_off()

    def record_tokens(self, count: int) -> None:
        """Counts generated tokens. Call it until `has_progress`."""
        self._tokens += count
        if self._tokens < UNDERWAY_TOKENS:
            return
        if not self.is_underway:
            self.is_underway = True
            self.incarnation.forget_cancelled(self.taken_at)
        self.has_progress = self.worker.now() - self._first_token_at >= PROGRESS_SECONDS

    def record_answer(self) -> None:
        """Records that the worker has ended its work on the request."""
        self.has_answer = True

    def record_cached_prefix(self, prefix: Prefix) -> None:
        """Adds the prompt and its reply to the index of the worker's prefix cache."""
        self.incarnation.prefix_index.insert(prefix)

    def abandon(self, reason: str, kind: FailureKind = FailureKind.LOST) -> None:
        """Gives the attempt up: its call is cancelled, and its reader finds `abandoned` set."""
        if self._is_released or self.abandoned:
            return
        self.abandoned = reason
        self.abandoned_as = kind
        if self._cancel_call is not None:
            self._cancel_call()

    def release(self) -> None:
        """Ends the lease; harmless when repeated."""
        if self._is_released:
            return
        self._take_prompt_off()
        self._is_released = True
        self.incarnation.load.release(self._reservation)
        self.incarnation.leases.pop(self, None)
        self.incarnation.suspects -= self.is_suspect
        if self._was_sent and not (self.produced or self.has_answer):
            self.incarnation.cancelled.append(CancelledRequest(self.request_id, self.worker.now()))
        self._cancel_call = None

    @property
    def _was_sent(self) -> bool:
        return self._cancel_call is not None and not self.needs_liveness_check

    def _take_prompt_off(self) -> None:
        if not self._is_prompt_computed:
            self._is_prompt_computed = True
            self.incarnation.load.computed(self._reservation)


def take_lease(worker: Worker, choice: Choice, reservation: Reservation) -> Lease:
    """Takes a place on a worker, counted at once."""
    lease = Lease(worker, choice, reservation)
    incarnation = lease.incarnation
    incarnation.load.reserve(reservation, lease.taken_at)
    incarnation.leases[lease] = None
    return lease
