"""Policy `round-robin`: each candidate in turn, whatever it carries.

The turn is remembered as the name of the last pick rather than as an index: workers come and go,
and an index into a list that changes would favour whoever follows the gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.policies.policy import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from vllama_balancer.placement.snapshot import Demand, Snapshot
    from vllama_balancer.policies.policy import Score


class RoundRobin:
    """Picks the candidate whose name follows the last pick's."""

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
        """Weighs no costs."""
        return ()
