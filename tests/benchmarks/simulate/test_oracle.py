from __future__ import annotations

from vllama_benchmarks.simulate.oracle import Oracle

Ask = "Callable[..., Request]"
Fleet = "Callable[..., Surroundings]"


def test_the_oracle_finds_the_true_cache(ask: Ask, fleet: Fleet) -> None:
    """It sees a prefix that no placement of its own put there."""
    context = fleet(1, 1, 1)
    engine = context.engines[1]
    engine.submit(0.0, ask((1, 1600), output_tokens=1))
    engine.advance(engine.next_seconds)
    assert Oracle(context).place(1.0, ask((1, 1600), (2, 100)), [0, 1, 2]) == 1


def test_the_oracle_avoids_the_slow_worker(ask: Ask, fleet: Fleet) -> None:
    """It uses each engine's true speed, without a measurement."""
    context = fleet(0.5, 1)
    assert Oracle(context).place(0.0, ask((1, 100)), [0, 1]) == 1


def test_the_oracle_knows_who_is_about_to_end(ask: Ask, fleet: Fleet) -> None:
    """Three streams that are nearly through cost less than one with a thousand tokens to go."""
    context = fleet(1, 1)
    for number in range(3):
        context.engines[0].submit(0.0, ask((number, 16), output_tokens=3))
    context.engines[1].submit(0.0, ask((9, 48), output_tokens=1000))
    for engine in context.engines:
        engine.advance(engine.next_seconds)
    assert Oracle(context).place(0.013, ask((5, 16), output_tokens=500), [0, 1]) == 0
