"""Measured speeds."""

import pytest

from vllama_server.fake_engine.rates import Rates
from vllama_server.fake_engine.simulation_profile import SimulationProfile

PROFILE = SimulationProfile()


def drive(rates, *steps):
    """Records steps of the default profile, given as decoding streams and prefill tokens."""
    now = 0.0
    for streams, prefill in steps:
        seconds = PROFILE.step_time(streams, prefill)
        now += seconds
        rates.record(now, seconds, streams, prefill)
    return now


def test_the_step_time_is_that_of_decoding_steps():
    """Prefill does not count into it."""
    rates = Rates()
    drive(rates, (1, 0), (1, 2000), (1, 0))
    assert rates.step_seconds == pytest.approx(0.0102)


@pytest.mark.parametrize("chunk", [10, 200, 2000])
def test_prefill_speed_does_not_depend_on_the_chunk(chunk):
    """What a step takes anyway is no prefill: small prompts measure the same speed as large ones."""
    rates = Rates()
    drive(rates, (1, 0), *[(1, chunk)] * 20)
    assert rates.prefill_tokens_per_second == pytest.approx(20_000, rel=0.01)


def test_prefill_speed_is_unknown_before_a_decoding_step():
    """A wrong number would be worse than none."""
    rates = Rates()
    drive(rates, (0, 10), (0, 10))
    assert rates.prefill_tokens_per_second == 0.0


def test_decode_speed_settles_and_decays():
    """Ten streams of ten milliseconds a step are about a thousand tokens per second, and none after a while."""
    rates = Rates()
    now = drive(rates, *[(10, 0)] * 1000)
    assert rates.decode_tokens_per_second(now) == pytest.approx(10 / 0.012, rel=0.02)
    assert rates.decode_tokens_per_second(now + 10) < 1
