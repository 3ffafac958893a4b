import pytest

from vllama_balancer.routing.policies import POLICIES, make_policy
from vllama_benchmarks.simulate.decision_time import measure

ROOMY_SECONDS = 250e-6
"""What a decision may take here: five times the promise, as this machine has other work as well."""


def test_a_decision_among_sixteen_workers_is_quick() -> None:
    """Pick, reserve and account; in the calmest of a dozen batches."""
    assert measure(make_policy("expected-completion"), 16, 3000).calm_seconds < ROOMY_SECONDS


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_can_be_measured(policy: str) -> None:
    """A single worker, which gets everything, included."""
    for workers in (1, 3):
        found = measure(make_policy(policy), workers, 50)
        assert 0 < found.calm_seconds <= found.median_seconds <= found.p99_seconds
        assert f"{workers} workers" in str(found)
