"""One request's place on one worker, counted from the pick to the end of the stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vllama_balancer.workers.attempt_errors import FailureKind
from vllama_balancer.workers.load import Reservation

if TYPE_CHECKING:
    from vllama_balancer.routing.policy import Choice
    from vllama_balancer.routing.prefix_index import Prefix
    from vllama_balancer.workers.worker import Incarnation, Worker


class Cancellable(Protocol):
    """A running call."""

    def cancel(self) -> bool:
        """Ends the call from this side."""
        ...


class Lease:
    """A place on a worker. Counts fall as the prompt is computed, and when it is released, exactly once each.

    It belongs to one life of the worker: when that life ends, its counts end with it and cannot
    disturb the next.
    """

    __slots__ = (
        "_call",
        "_computed",
        "_promise",
        "_released",
        "abandoned",
        "abandoned_as",
        "choice",
        "crash_count",
        "expected_output_tokens",
        "had_output",
        "incarnation",
        "is_blamed",
        "is_unmetered",
        "needs_liveness_check",
        "predicted_cached_tokens",
        "produced",
        "request_id",
        "taken_at",
        "uses_retry_budget",
        "worker",
    )

    def __init__(
        self, worker: Worker, life: Incarnation, choice: Choice, promise: Reservation, request_id: str
    ) -> None:
        self.worker = worker
        """Where."""
        self.incarnation = life
        """In which of the worker's lives."""
        self.choice = choice
        """Why there."""
        self.request_id = request_id
        """For whom."""
        self.predicted_cached_tokens = 0
        """Prompt tokens that were believed to be cached."""
        self.expected_output_tokens = 0
        """Output that was promised KV cache."""
        self.crash_count = 0
        """Deaths that the request was blamed for before it came here."""
        self.had_output = False
        """Whether an earlier worker generated anything for the request."""
        self.is_unmetered = False
        """Whether it is for a call that computes nothing."""
        self.needs_liveness_check = False
        """Whether the worker has to say that it lives before it gets the request."""
        self.uses_retry_budget = False
        """Whether this is a retry that the budget counts."""
        self.taken_at = 0.0
        """When the place was taken, on the worker's clock."""
        self.produced = False
        """Whether the worker has generated anything for it."""
        self.abandoned = ""
        """Why the balancer has given this attempt up; empty while it has not."""
        self.abandoned_as = FailureKind.LOST
        """How the failure of an attempt that was given up counts."""
        self.is_blamed = False
        """Whether the request is held to have killed this life of the worker."""
        self._promise = promise
        self._computed = False
        self._released = False
        self._call: Cancellable | None = None

    @property
    def is_suspect(self) -> bool:
        """Whether its request has been blamed for a death, and nothing speaks for it yet."""
        return self.crash_count > 0 and not (self.produced or self.had_output)

    def attach(self, call: Cancellable) -> None:
        """Takes the call that runs under the lease, so that giving up ends it."""
        self._call = call
        if self.abandoned:
            call.cancel()

    def started(self, prompt_tokens: int, cached_tokens: int) -> None:
        """Corrects the estimates by what the worker found."""
        actual = Reservation(prompt_tokens - cached_tokens, prompt_tokens + self.expected_output_tokens)
        if not self._computed and not self._released:
            self.incarnation.load.correct(self._promise, actual)
            self._promise = actual
        if cached_tokens < self.predicted_cached_tokens:
            self.incarnation.prefix_index.missed(self.predicted_cached_tokens - cached_tokens)

    def first_token(self) -> None:
        """Takes the prompt off the worker's count: it is computed."""
        if not self.produced and not self.is_unmetered:
            self.worker.record_first_token(self.taken_at)
        self.produced = True
        self._take_prompt_off()

    def answered(self, prefix: Prefix) -> None:
        """Believes from now on that the worker's cache holds the prompt and the reply."""
        self.incarnation.prefix_index.hold(prefix)

    def abandon(self, reason: str, kind: FailureKind = FailureKind.LOST) -> None:
        """Gives the attempt up: its call ends, and whoever reads it finds `abandoned` set."""
        if self._released or self.abandoned:
            return
        self.abandoned = reason
        self.abandoned_as = kind
        if self._call is not None:
            self._call.cancel()

    def release(self) -> None:
        """Ends the lease; harmless when repeated."""
        if self._released:
            return
        self._take_prompt_off()
        self._released = True
        self.incarnation.load.release(self._promise)
        self.incarnation.leases.pop(self, None)
        self._call = None

    def _take_prompt_off(self) -> None:
        if not self._computed:
            self._computed = True
            self.incarnation.load.computed(self._promise)
