"""The placement policies by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.errors import ConfigError
from vllama_balancer.routing.baselines import LeastLoad, RandomChoice, RoundRobin
from vllama_balancer.routing.expected_completion import ExpectedCompletion

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.routing.policy import Policy

POLICIES: dict[str, Callable[[], Policy]] = {
    ExpectedCompletion.name: ExpectedCompletion,
    LeastLoad.name: LeastLoad,
    RoundRobin.name: RoundRobin,
    RandomChoice.name: RandomChoice,
}
"""Policies by the name given to `--policy`; the first is the default."""


def make_policy(name: str) -> Policy:
    """Returns a new policy. Raises ConfigError for an unknown name; the message lists the known ones."""
    if name not in POLICIES:
        raise ConfigError(f"--policy {name!r} is unknown: use one of {', '.join(POLICIES)}", field="policy")
    return POLICIES[name]()
