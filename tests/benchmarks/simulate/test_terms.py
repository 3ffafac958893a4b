"""The terms of `expected-completion` that the simulator has found, each at the smallest example that shows it."""

from __future__ import annotations

from collections import Counter
from random import Random

from vllama_balancer.routing.expected_completion import ExpectedCompletion
from vllama_balancer.routing.snapshot import Candidate, Demand, Snapshot

NOW = 1000.0


def candidate(name: str, streams: int = 0, prompt_tokens: int = 0, *, step_seconds: float = 0.01) -> Candidate:
    """A warm worker that has just reported."""
    return Candidate(
        name,
        streams,
        64,
        prompt_tokens=prompt_tokens,
        kv_per_token=1 / 200_000,
        reported_at=NOW,
        prefill_tokens_per_second=20_000.0,
        stream_seconds=step_seconds / 50,
        measured_at=NOW,
    )


def picks(candidates: list[Candidate], demand: Demand) -> set[str]:
    """Lists the workers that take any of fifty requests."""
    rng, policy = Random(4), ExpectedCompletion()
    choices = [policy.pick(Snapshot(NOW, tuple(candidates)), demand, rng) for _ in range(50)]
    return {choice.worker for choice in choices if choice is not None}


def test_two_prompts_do_not_meet_while_another_worker_computes_none() -> None:
    """Within the band of equals, prompts in flight decide before anything else."""
    assert picks([candidate("a", 1, 200), candidate("b", 1)], Demand(200, 100, {})) == {"b"}


def test_of_equal_workers_the_emptier_is_picked() -> None:
    """One short stream costs less than the band, and still decides a tie."""
    assert picks([candidate("busy", 1), candidate("idle")], Demand(200, 50, {})) == {"idle"}


def test_equal_in_everything_means_chance() -> None:
    """No worker is first among equals."""
    assert picks([candidate(name) for name in "abcd"], Demand(200, 100, {})) == set("abcd")


def test_a_conversation_stays_though_its_worker_is_fuller() -> None:
    """Computing 1000 tokens again takes 50 ms and delays each of 16 streams by as much.

    The other worker's three streams fewer save 3 * 100 * 0.2 ms = 60 ms: alone, that would win.
    """
    assert picks([candidate("home", 19), candidate("other", 16)], Demand(1200, 140, {"home": 1000})) == {"home"}


def test_an_idle_slow_worker_waits_until_the_fast_are_filled() -> None:
    """Half the speed costs a quarter of 100 * 10 ms, as much as a dozen streams beside it on a fast one."""
    demand = Demand(200, 100, {})
    assert picks([candidate("fast", 8), candidate("slow", step_seconds=0.02)], demand) == {"fast"}
    assert picks([candidate("fast", 20), candidate("slow", step_seconds=0.02)], demand) == {"slow"}


def test_small_differences_of_speed_are_noise() -> None:
    """Measured steps that differ by a tenth do not draw everything to one worker."""
    counts: Counter[str] = Counter()
    rng, policy = Random(4), ExpectedCompletion()
    for _ in range(60):
        candidates = (candidate("a", counts["a"]), candidate("b", counts["b"], step_seconds=0.011))
        choice = policy.pick(Snapshot(NOW, candidates), Demand(200, 100, {}), rng)
        assert choice is not None
        counts[choice.worker] += 1
    assert counts["b"] >= 26
