"""Policy `least-load`: the candidate with the fewest streams for its size, exact counts, random among equals.

Streams are compared as a share of `max_streams`, so a worker twice as large gets twice as many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.policies.policy import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from vllama_balancer.placement.snapshot import Demand, Snapshot
    from vllama_balancer.policies.policy import Score


class LeastLoad:
    """Picks the candidate with the smallest share of its streams in use."""

    name = "least-load"

    def pick(self, snapshot: Snapshot, demand: Demand, rng: Random) -> Choice | None:
        """Picks one of the snapshot's candidates; None only when there is none."""
        if not snapshot.candidates:
            return None
        shares = [candidate.streams / max(candidate.max_streams, 1) for candidate in snapshot.candidates]
        least = min(shares)
        idle = [candidate for candidate, share in zip(snapshot.candidates, shares, strict=True) if share == least]
        return Choice(rng.choice(idle).name, self.name)

    def explain(self, snapshot: Snapshot, demand: Demand) -> Sequence[Score]:
        """Weighs no costs."""
        return ()
