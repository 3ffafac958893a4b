import pytest

from vllama_benchmarks.simulate.outcome import Outcome, percentile, score
from vllama_benchmarks.simulate.workload import Request, Segment, Turn


def answered(asked: float, first: float, ended: float, tokens: int, cached: int = 0) -> Request:
    """Makes a request that is complete."""
    request = Request(Turn((Segment(1, 100),), tokens), "", asked)
    request.first_token_seconds, request.ended_seconds, request.cached_tokens = first, ended, cached
    return request


def test_percentiles_are_interpolated() -> None:
    """The 99th of 0 to 100 is 99, the middle of two is their mean, none is 0."""
    assert percentile(range(101), 0.99) == pytest.approx(99)
    assert percentile([1.0, 2.0], 0.5) == 1.5
    assert percentile([], 0.5) == 0.0


def test_times_are_taken_from_the_request() -> None:
    """TTFT counts from asking, TPOT between the first token and the last."""
    outcome = Outcome(1)
    outcome.add(answered(1.0, 1.5, 2.5, 11, cached=48))
    result = score([outcome])
    assert result.ttft_p50_seconds == pytest.approx(0.5)
    assert result.tpot_seconds == pytest.approx(0.1)
    assert result.makespan_seconds == 2.5
    assert result.hit_rate == pytest.approx(0.48)


def test_imbalance_compares_stream_seconds() -> None:
    """Three seconds of streams on one worker and one on the other: 3 over a mean of 2."""
    outcome = Outcome(2)
    outcome.count(0.0, 0, +1)
    outcome.count(0.0, 1, +1)
    outcome.count(1.0, 1, -1)
    outcome.count(3.0, 0, -1)
    assert outcome.imbalance == pytest.approx(1.5)


def test_a_fleet_without_work_is_even() -> None:
    """Nothing is divided by zero."""
    assert Outcome(4).imbalance == 1.0


def test_tails_pool_the_requests_of_all_seeds() -> None:
    """A single slow request of one seed shows in the common tail."""
    one, two = Outcome(1), Outcome(1)
    for outcome, slow in ((one, 0.1), (two, 5.0)):
        outcome.add(answered(0.0, slow, 6.0, 2))
    assert score([one, two]).ttft_p99_seconds > 4
