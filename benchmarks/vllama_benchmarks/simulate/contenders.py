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
"""The yardstick of all ratios."""
ORACLE = "oracle"
"""Knows everything; no baseline, because nobody can run it."""

TUNED_RULE = CacheAwareRule(match=0.5, absolute=16, relative=1.1)
"""What `--tune` found; see tuning.py."""


def cache_aware(rule: CacheAwareRule) -> PlacementFactory:
    """Makes the cache-aware rule with given thresholds."""
    return lambda context: CacheAware(context, rule)


def balanced(policy: str) -> PlacementFactory:
    """Puts one of the balancer's own policies to work."""

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
"""What the field uses."""

CONTENDERS: Mapping[str, PlacementFactory] = {SUBJECT: balanced(SUBJECT), **BASELINES, ORACLE: Oracle}
"""The comparison that the report shows."""


def contender(name: str) -> PlacementFactory:
    """Finds a contender, another policy of the balancer, or a variant. Raises KeyError for any other name."""
    return {**{policy: balanced(policy) for policy in POLICIES}, **VARIANTS, **CONTENDERS}[name]
