"""Who is wanted back at once was sent away too early."""

from __future__ import annotations

from vllama_balancer.scheduler.model import EvictionHistory


def test_a_model_is_back_when_it_is_asked_for_within_a_load() -> None:
    """Of its own load, after it had to leave."""
    eviction_history = EvictionHistory()
    eviction_history.evicted("m", now=100.0, load_seconds=12.0)
    assert eviction_history.was_just_evicted("m", 112.0)
    eviction_history.evicted("m", now=200.0, load_seconds=12.0)
    assert not eviction_history.was_just_evicted("m", 212.1)


def test_a_comeback_is_one_only_once() -> None:
    """Who left by himself in between comes as anybody does."""
    eviction_history = EvictionHistory()
    eviction_history.evicted("m", now=100.0, load_seconds=12.0)
    assert eviction_history.was_just_evicted("m", 101.0)
    assert not eviction_history.was_just_evicted("m", 102.0)
    assert not eviction_history.was_just_evicted("other", 102.0)
