"""Who is wanted back at once was sent away too early."""

from __future__ import annotations

from vllama_balancer.loading.comebacks import Comebacks


def test_a_model_is_back_when_it_is_asked_for_within_a_load() -> None:
    """Of its own load, after it had to leave."""
    comebacks = Comebacks()
    comebacks.sent_away("m", now=100.0, load_seconds=12.0)
    assert comebacks.is_back("m", 112.0)
    comebacks.sent_away("m", now=200.0, load_seconds=12.0)
    assert not comebacks.is_back("m", 212.1)


def test_a_comeback_is_one_only_once() -> None:
    """Who left by himself in between comes as anybody does."""
    comebacks = Comebacks()
    comebacks.sent_away("m", now=100.0, load_seconds=12.0)
    assert comebacks.is_back("m", 101.0)
    assert not comebacks.is_back("m", 102.0)
    assert not comebacks.is_back("other", 102.0)
