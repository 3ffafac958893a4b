"""The baseline policies: `least-load`, `round-robin` and `random`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.routing.policy import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from vllama_balancer.routing.policy import Score
    from vllama_balancer.routing.snapshot import Demand, Snapshot


class LeastLoad:
    """Picks the candidate with the smallest share of its streams in use, by exact counts; random among equals.

    A worker twice as large gets twice as many streams.
    """

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
        """Returns nothing: this policy computes no costs."""
        return ()


class RoundRobin:
    """Picks the candidate whose name follows the last pick's, whatever its load.

    The turn is a name rather than an index: workers come and go, and an index into a changing list would favour the
    worker after each gap.
    """

    name = "round-robin"

    def __init__(self) -> None:
        self._last = ""

    def pick(self, snapshot: Snapshot, demand: Demand, rng: Random) -> Choice | None:
        """Picks one of the snapshot's candidates; None only when there is none."""
        if not snapshot.candidates:
            return None
        names = sorted(candidate.name for candidate in snapshot.candidates)
        self._last = next((name for name in names if name > self._last), names[0])
        return Choice(self._last, self.name)

    def explain(self, snapshot: Snapshot, demand: Demand) -> Sequence[Score]:
        """Returns nothing: this policy computes no costs."""
        return ()


class RandomChoice:
    """Picks any candidate with equal chances."""

    name = "random"

    def pick(self, snapshot: Snapshot, demand: Demand, rng: Random) -> Choice | None:
        """Picks one of the snapshot's candidates; None only when there is none."""
        if not snapshot.candidates:
            return None
        return Choice(rng.choice(snapshot.candidates).name, self.name)

    def explain(self, snapshot: Snapshot, demand: Demand) -> Sequence[Score]:
        """Returns nothing: this policy computes no costs."""
        return ()
