"""The variants of the ablation: the policy without each of its parts, by name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vllama_balancer.routing.expected_completion import ASSIGNED, HELD, PROMPTS, STREAMS, ExpectedCompletion, Weights
from vllama_benchmarks.simulate.policy_placement import PolicyPlacement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllama_benchmarks.simulate.placement import Placement, PlacementContext, PlacementFactory

SHIPPED = "as shipped"
"""The policy with all its terms."""
WITHOUT_MEMORY, WITHOUT_SLOW_START = "without the memory term", "without slow start"
WITHOUT: Mapping[str, Weights] = {
    SHIPPED: Weights(),
    "without V (avoidable prefill)": Weights(recomputing=0.0),
    "without D (slow workers)": Weights(slowness=0.0),
    "without the band's stream": Weights(band_streams=0.0),
    "without any band": Weights(band_seconds=0.0, band_share=0.0, band_streams=0.0),
    "cached prefix breaks no ties": Weights(ties=(PROMPTS, STREAMS, ASSIGNED)),
    "prompts in flight break no ties": Weights(ties=(HELD, STREAMS, ASSIGNED)),
    "streams break no ties": Weights(ties=(HELD, PROMPTS, ASSIGNED)),
    "recently assigned tokens break no ties": Weights(ties=(HELD, PROMPTS, STREAMS)),
    WITHOUT_MEMORY: Weights(memory_seconds=0.0),
    WITHOUT_SLOW_START: Weights(slow_start_seconds=0.0),
}
"""Weights by the name of the term that they switch off."""


WITHOUT_REPLIES = "replies are not believed"
"""The policy with all its terms, but replies are not expected in caches."""


def _placed(context: PlacementContext, weights: Weights, *, index_replies: bool = True) -> Placement:
    return PolicyPlacement(context, ExpectedCompletion(weights), index_replies=index_replies)


VARIANTS: Mapping[str, PlacementFactory] = {
    **{name: partial(_placed, weights=weights) for name, weights in WITHOUT.items()},
    WITHOUT_REPLIES: partial(_placed, weights=Weights(), index_replies=False),
}
"""Placements by the name of the part that they switch off."""
