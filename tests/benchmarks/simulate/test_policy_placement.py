from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.routing.policies import POLICIES, make_policy
from vllama_benchmarks.simulate.engine_model import LoadReport
from vllama_benchmarks.simulate.policy_placement import PolicyPlacement
from vllama_benchmarks.simulate.simulation import Simulation
from vllama_benchmarks.simulate.workload import Segment
from vllama_benchmarks.simulate.workloads import generate

if TYPE_CHECKING:
    from vllama_benchmarks.simulate.placement import PlacementContext

Ask = "Callable[..., Request]"
Fleet = "Callable[..., PlacementContext]"
IDLE_REPORT = LoadReport(0, 0, 0.0, 0, 20_000.0, 0.0102)


def balanced(context: PlacementContext, policy: str = "expected-completion") -> PolicyPlacement:
    """Puts a policy to work on workers that have reported once."""
    placement = PolicyPlacement(context, make_policy(policy))
    for worker in range(context.workers):
        placement.report(0.0, worker, IDLE_REPORT)
    return placement


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_of_the_balancer_can_be_simulated(policy: str) -> None:
    """Chats through a restart, with the real books."""
    workload = generate("restart", 0, 8)
    outcome = Simulation(workload, 4, 8, lambda around: PolicyPlacement(around, make_policy(policy)), 0).run()
    assert len(outcome.ttft_seconds) == len(workload.sessions)


@pytest.mark.parametrize("index_replies", [True, False])
def test_a_reply_is_expected_in_the_cache_where_it_was_generated(ask: Ask, fleet: Fleet, index_replies: bool) -> None:
    """The next turn's lease expects it, unless replies are left out of the prefix index."""
    placement = PolicyPlacement(fleet(1), make_policy("expected-completion"), index_replies=index_replies)
    placement.report(0.0, 0, IDLE_REPORT)
    first = ask((1, 1600), output_tokens=800)
    first.turn = replace(first.turn, answer=Segment(2, 800))
    placement.place(0.0, first, [0])
    placement.ended(1.0, first, 800)
    second = ask((1, 1600), (2, 800), (3, 160))
    placement.place(2.0, second, [0])
    assert placement._leases[second].predicted_cached_tokens == (2400 if index_replies else 1600)


def test_a_conversation_returns_to_its_cache(ask: Ask, fleet: Fleet) -> None:
    """The balancer's prefix index, not the engine's cache, leads the second turn to the first one's worker."""
    placement = balanced(fleet(1, 1, 1, 1))
    first = ask((1, 1600))
    first.worker = placement.place(0.0, first, [0, 1, 2, 3])
    placement.started(0.1, first, 0)
    placement.first_token(0.1, first)
    placement.ended(1.0, first, 10)
    assert placement.place(1.1, ask((1, 1600), (2, 50)), [0, 1, 2, 3]) == first.worker


def test_a_restarted_worker_is_expected_to_cache_nothing(ask: Ask, fleet: Fleet) -> None:
    """After a restart the same request is as welcome elsewhere: all workers are used in twenty tries."""
    placement = balanced(fleet(1, 1))
    first = ask((1, 1600))
    first.worker = placement.place(0.0, first, [0, 1])
    placement.left(0.5, first.worker)
    placement.lost(0.5, first)
    assert placement.place(0.6, ask((5, 100)), [1 - first.worker]) == 1 - first.worker
    placement.joined(1.0, first.worker)
    placement.report(1.0, first.worker, IDLE_REPORT)
    assert placement.place(60.0, ask((1, 1600)), [0, 1]) == first.worker  # the other one carries a stream


def test_a_load_beyond_every_batch_is_an_error_of_the_scenario(ask: Ask, fleet: Fleet) -> None:
    """Admission's queue is not simulated: 64 streams fill a worker, the 65th is refused with words."""
    placement = balanced(fleet(1))
    for number in range(64):
        placement.place(0.0, ask((number, 16)), [0])
    with pytest.raises(RuntimeError, match="no worker has room"):
        placement.place(0.0, ask((99, 16)), [0])
