"""Every placement that takes part in the comparison, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.routing.policies import POLICIES, make_policy
from vllama_benchmarks.simulate.baselines import (
    CacheAware,
    CacheAwareRule,
    DataParallelScore,
    LeastRequest,
    PowerOfTwo,
    Random,
    RoundRobin,
)
from vllama_benchmarks.simulate.oracle import Oracle
from vllama_benchmarks.simulate.policy_placement import PolicyPlacement
from vllama_benchmarks.simulate.variants import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllama_benchmarks.simulate.placement import Placement, PlacementContext, PlacementFactory

SUBJECT = "expected-completion"
"""The policy under test."""
LEAST_REQUEST = "least-request"
"""The reference of all ratios."""
ORACLE = "oracle"
"""Uses what no router can know, so it is no baseline."""

TUNED_RULE = CacheAwareRule(match=0.5, absolute=16, relative=1.1)
"""What `--tune` found; see tuning.py."""


def cache_aware(rule: CacheAwareRule) -> PlacementFactory:
    """Returns the cache-aware rule with given thresholds."""
    return lambda context: CacheAware(context, rule)


def balanced(policy: str) -> PlacementFactory:
    """Returns the placement of one of the balancer's own policies."""

    def build(context: PlacementContext) -> Placement:
        return PolicyPlacement(context, make_policy(policy))

    return build


BASELINES: Mapping[str, PlacementFactory] = {
    "random": Random,
    "round-robin": RoundRobin,
    LEAST_REQUEST: LeastRequest,
    "power-of-two": PowerOfTwo,
    "cache-aware": cache_aware(CacheAwareRule()),
    "cache-aware tuned": cache_aware(TUNED_RULE),
    "data-parallel score": DataParallelScore,
}
"""The placements of other routers."""

CONTENDERS: Mapping[str, PlacementFactory] = {SUBJECT: balanced(SUBJECT), **BASELINES, ORACLE: Oracle}
"""The comparison that the report shows."""


def contender(name: str) -> PlacementFactory:
    """Returns a contender, another policy of the balancer, or a variant. Raises KeyError for any other name."""
    return {**{policy: balanced(policy) for policy in POLICIES}, **VARIANTS, **CONTENDERS}[name]
