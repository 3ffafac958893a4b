"""The interface of every placement policy: one plain synchronous function over a snapshot.

A policy never awaits and never touches a worker, so that pick and lease are one step in which nothing can change, and
so that the simulator can run the same objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from vllama_balancer.routing.snapshot import Demand, Snapshot


class Score(NamedTuple):
    """The cost of one candidate, term by term, in seconds: a row of a decision's explanation.

    All terms are stretched alike while the worker is fresh.
    """

    worker: str
    """The candidate."""
    prefill_seconds: float
    """Until the prompts ahead and this one are computed."""
    decode_seconds: float
    """Slowdown by the streams that decode beside it."""
    memory_seconds: float
    """Penalty for a KV cache that comes near its end."""
    cached_tokens: int
    """Prompt tokens that the prefix index expects in its cache."""

    @property
    def total_seconds(self) -> float:
        """The cost that is compared."""
        return self.prefill_seconds + self.decode_seconds + self.memory_seconds


class Choice(NamedTuple):
    """The chosen worker and the reason."""

    worker: str
    """Name of a candidate."""
    reason: str
    """One short phrase for metadata and logs, such as "least-load"."""


class Policy(Protocol):
    """Picks the worker of a request."""

    @property
    def name(self) -> str:
        """The name by which it is configured."""
        ...

    def pick(self, snapshot: Snapshot, demand: Demand, rng: Random) -> Choice | None:
        """Picks one of the snapshot's candidates; None only when there is none."""
        ...

    def explain(self, snapshot: Snapshot, demand: Demand) -> Sequence[Score]:
        """Computes the costs behind a pick; empty for a policy that weighs none."""
        ...
