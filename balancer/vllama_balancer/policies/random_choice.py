"""Policy `random`: any candidate, with equal chances. The baseline that knows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.policies.policy import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from vllama_balancer.placement.snapshot import Demand, Snapshot
    from vllama_balancer.policies.policy import Score


class RandomChoice:
    """Picks uniformly."""

    name = "random"

    def pick(self, snapshot: Snapshot, demand: Demand, rng: Random) -> Choice | None:
        """Picks one of the snapshot's candidates; None only when there is none."""
        if not snapshot.candidates:
            return None
        return Choice(rng.choice(snapshot.candidates).name, self.name)

    def explain(self, snapshot: Snapshot, demand: Demand) -> Sequence[Score]:
        """Weighs no costs."""
        return ()
