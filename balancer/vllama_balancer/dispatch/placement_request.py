"""A request as placement and queue see it, on the first attempt and on every retry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllama_balancer.workers.poison import CRASHES_TO_TRIAL

if TYPE_CHECKING:
    from vllama_balancer.routing.request_size import RequestSize


@dataclass(slots=True, eq=False)
class PlacementRequest:
    """The facts of one request that decide when and where it is placed."""

    request_id: str
    key: str
    """Model key."""
    client: str
    """Key of fair queueing."""
    size: RequestSize
    """Its estimated cost."""
    session: str = ""
    """The conversation it belongs to, if the client names one."""
    priority: int = 0
    """Lower ones of the same client are placed first."""
    excluded: set[str] = field(default_factory=set)
    """Boot ids of workers that failed it, or whose context is too short; others are preferred."""
    is_retry: bool = False
    """Whether it had a place before: it goes ahead of requests that had none."""
    needs_retry_budget: bool = False
    """Whether its last attempt was answered with an error."""
    needs_liveness_check: bool = False
    """Whether its last worker was lost: the next one has to prove that it lives before it gets the request."""
    crash_count: int = 0
    """Crashes of workers that it was blamed for since its last real progress."""
    blamed_at: float = 0.0
    """When it was first blamed for as many crashes as earn a trial, on the workers' clock."""
    has_output: bool = False
    """Whether any worker has generated anything for it."""

    @property
    def is_suspect(self) -> bool:
        """Whether it was blamed for a crash and no worker has generated anything for it."""
        return self.crash_count > 0 and not self.has_output

    @property
    def needs_trial(self) -> bool:
        """Whether it may only be tried alone: it was blamed for several crashes in a row."""
        return self.crash_count >= CRASHES_TO_TRIAL
