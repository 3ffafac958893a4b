"""The times to first token of a worker's latest requests."""

from __future__ import annotations

from vllama_balancer.workers.load import TTFT_WINDOW_REQUESTS, TtftWindow


def test_before_the_first_request_there_is_no_quantile() -> None:
    """Not zero: unknown."""
    assert TtftWindow().quantile(0.5) is None


def test_quantiles_are_times_that_were_measured() -> None:
    """The median of a hundred is the fiftieth, the 99th the last but one."""
    times = TtftWindow()
    for milliseconds in range(100, 0, -1):
        times.record(milliseconds / 1000)
    assert (times.quantile(0.5), times.quantile(0.99)) == (0.05, 0.099)


def test_old_requests_are_forgotten() -> None:
    """A slow start does not count for ever."""
    times = TtftWindow()
    times.record(60)
    for _ in range(TTFT_WINDOW_REQUESTS):
        times.record(0.1)
    assert times.quantile(1) == 0.1
