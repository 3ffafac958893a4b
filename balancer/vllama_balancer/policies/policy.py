"""The interface of every placement policy: one plain synchronous function over a snapshot.

A policy never awaits and never touches a worker, so that picking and reserving are one step in
which nothing can change, and so that a simulator can drive the very same objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from random import Random

    from vllama_balancer.snapshot import Demand, Snapshot


class Score(NamedTuple):
    """What one candidate would cost, term by term, in seconds: a row of a decision's explanation."""

    worker: str
    """The candidate."""
    slot_wait_seconds: float
    """Until the engine has a place in its batch."""
    prefill_seconds: float
    """Until the prompts ahead and this one are computed."""
    decode_seconds: float
    """Slowdown by the streams that decode beside it."""
    memory_seconds: float
    """Penalty for a KV cache that comes near its end."""
    total_seconds: float
    """The sum, slowed down while the worker is fresh."""
    cached_tokens: int
    """Prompt tokens that its cache is believed to hold."""


class Choice(NamedTuple):
    """The chosen worker, and why."""

    worker: str
    """Name of a candidate."""
    reason: str
    """One short phrase for metadata and logs, such as "least-load"."""
    scores: tuple[Score, ...] = ()
    """The candidates' costs, for policies that compute them."""


class Policy(Protocol):
    """Picks the worker for a request."""

    @property
    def name(self) -> str:
        """The name by which it is configured."""
        ...

    def pick(self, snapshot: Snapshot, demand: Demand, rng: Random) -> Choice | None:
        """Picks one of the snapshot's candidates; None only when there is none."""
        ...
