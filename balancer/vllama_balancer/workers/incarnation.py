"""One incarnation of a worker: the state that belongs to one boot id and ends with it.

The counts, the prefix index and the leases of an earlier incarnation cannot disturb a later one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from vllama_balancer.routing.prefix_index import PrefixIndex
from vllama_balancer.workers.attempt_errors import FailureKind
from vllama_balancer.workers.load import Load
from vllama_balancer.workers.poison import Suspect, blamed


class ActiveLease(Suspect, Protocol):
    """A lease as its incarnation uses it; lease.py stands above this module."""

    is_blamed: bool
    """Whether its request is held responsible for the crash of this incarnation."""
    needs_liveness_check: bool
    """Whether its request has not been sent yet: the worker has to prove that it lives first."""
    is_unmetered: bool
    """Whether its call computes nothing on the engine."""
    taken_at: float
    """On the worker's clock."""

    @property
    def is_suspect(self) -> bool:
        """Whether its request may have crashed another worker."""
        ...

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
    is_blame_assigned: bool = False
    """Whether blame for its crash has been assigned."""

    @property
    def has_suspect(self) -> bool:
        """Whether it runs a request that may have crashed another worker."""
        return any(lease.is_suspect for lease in self.leases)

    @property
    def busy_since(self) -> float:
        """When the oldest of its requests for the engine began, on the worker's clock; infinite without one."""
        for lease in self.leases:
            if not (lease.is_unmetered or lease.needs_liveness_check):
                return lease.taken_at
        return math.inf

    def assign_blame(self) -> None:
        """Marks the leases that may have crashed the worker. Only the first call of a crash has an effect."""
        # A request that still waits for the liveness check has not been sent.
        aboard = [lease for lease in self.leases if not lease.needs_liveness_check]
        if self.is_blame_assigned or not aboard:
            return
        self.is_blame_assigned = True
        for lease in blamed(aboard):
            lease.is_blamed = True

    def abandon_leases(self, reason: str, kind: FailureKind = FailureKind.LOST) -> None:
        """Gives every lease up."""
        for lease in tuple(self.leases):
            lease.abandon(reason, kind)
