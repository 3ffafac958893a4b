"""One incarnation of a worker: the state that belongs to one boot id and ends with it.

The counts, the prefix index and the leases of an earlier incarnation cannot disturb a later one.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from vllama_balancer.routing.prefix_index import PrefixIndex
from vllama_balancer.workers.attempt_errors import FailureKind
from vllama_balancer.workers.load import Load
from vllama_balancer.workers.poison import CANCELLED_SECONDS, MAX_CANCELLED, CancelledRequest, Suspect, blamed


class Blamable(Suspect, Protocol):
    """A suspect that can be marked."""

    request_id: str
    is_blamed: bool
    """Whether the request is held responsible for the crash of this incarnation."""


class ActiveLease(Blamable, Protocol):
    """A lease as its incarnation uses it; lease.py stands above this module."""

    needs_liveness_check: bool
    """Whether its request has not been sent yet: the worker has to prove that it lives first."""
    is_unmetered: bool
    """Whether its call computes nothing on the engine."""
    taken_at: float
    """On the worker's clock."""

    def abandon(self, reason: str, kind: FailureKind) -> None:
        """Gives the attempt up: its call ends."""
        ...


@dataclass(slots=True)
class Incarnation:
    """Counts, prefix index and leases of one boot id."""

    boot_id: str
    """The worker's own random id; empty before it has been reached."""
    load: Load = field(default_factory=Load)
    prefix_index: PrefixIndex = field(default_factory=PrefixIndex)
    leases: dict[ActiveLease, None] = field(default_factory=dict)
    """Slots taken and not released, oldest first."""
    suspects: int = 0
    """Leases whose requests may have crashed another worker."""
    cancelled: deque[CancelledRequest] = field(default_factory=lambda: deque(maxlen=MAX_CANCELLED))
    """Requests cancelled before their first token, oldest first: it may still be busy with them."""
    is_blame_assigned: bool = False
    """Whether blame for its crash has been assigned."""

    def has_rival(self, *, had_output: bool) -> bool:
        """Returns whether a request would be blamed beside a suspect without output here; `had_output` elsewhere."""
        return any(not lease.produced and (had_output or not lease.had_output) for lease in self.leases)

    @property
    def busy_since(self) -> float:
        """When the oldest of its requests for the engine began, on the worker's clock; infinite without one."""
        for lease in self.leases:
            if not (lease.is_unmetered or lease.needs_liveness_check):
                return lease.taken_at
        return math.inf

    def assign_blame(self, now: float) -> list[str]:
        """Marks the requests that may have crashed the worker, and returns their ids; empty after the first call."""
        self.forget_cancelled(now - CANCELLED_SECONDS)
        # A request that still waits for the liveness check has not been sent.
        leases = [lease for lease in self.leases if not lease.needs_liveness_check]
        if self.is_blame_assigned or not leases:
            return []
        self.is_blame_assigned = True
        aboard: list[Blamable] = [*leases, *self.cancelled]
        suspects = blamed(aboard)
        for suspect in suspects:
            suspect.is_blamed = True
        return [suspect.request_id for suspect in suspects]

    def withdraw_blame(self) -> None:
        """Takes the blame back: the worker has not crashed."""
        self.is_blame_assigned = False
        for lease in self.leases:
            lease.is_blamed = False

    def forget_cancelled(self, before: float) -> None:
        """Forgets the requests that were cancelled before a moment: the worker has ended its work on them."""
        while self.cancelled and self.cancelled[0].cancelled_at <= before:
            self.cancelled.popleft()

    def abandon_leases(self, reason: str, kind: FailureKind = FailureKind.LOST) -> None:
        """Gives every lease up."""
        for lease in tuple(self.leases):
            lease.abandon(reason, kind)
