from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_benchmarks.simulate.baselines import (
    CacheAware,
    CacheAwareRule,
    DataParallelScore,
    LeastRequest,
    PowerOfTwo,
    Random,
    RoundRobin,
    matched,
)
from vllama_benchmarks.simulate.engine_model import LoadReport

if TYPE_CHECKING:
    from vllama_benchmarks.simulate.baselines import Counting
    from vllama_benchmarks.simulate.workload import Request

Ask = "Callable[..., Request]"
Fleet = "Callable[..., Surroundings]"
ALL = [0, 1, 2, 3]


def place(placement: Counting, request: Request, available: list[int] = ALL) -> int:
    """Places a request and notes where."""
    request.worker = placement.place(0.0, request, available)
    return request.worker


def test_random_uses_all_alike(ask: Ask, fleet: Fleet) -> None:
    """400 draws of 4: 100 each, within five standard deviations of 8.7."""
    placement = Random(fleet(1, 1, 1, 1))
    counts = Counter(place(placement, ask((1, 16))) for _ in range(400))
    assert all(abs(counts[worker] - 100) < 44 for worker in ALL)


def test_round_robin_takes_turns(ask: Ask, fleet: Fleet) -> None:
    """Each worker once before any worker twice."""
    placement = RoundRobin(fleet(1, 1, 1, 1))
    assert sorted(place(placement, ask((1, 16))) for _ in range(4)) == ALL


def test_least_request_evens_out_what_it_counts(ask: Ask, fleet: Fleet) -> None:
    """What ends leaves room that is filled next."""
    placement = LeastRequest(fleet(1, 1, 1, 1))
    requests = [ask((1, 16)) for _ in range(8)]
    assert Counter(place(placement, request) for request in requests) == dict.fromkeys(ALL, 2)
    placement.ended(1.0, requests[3], 10)
    assert place(placement, ask((1, 16))) == requests[3].worker


def test_least_request_breaks_ties_by_lot(ask: Ask, fleet: Fleet) -> None:
    """No worker is first among equals."""
    firsts = set()
    placement = LeastRequest(fleet(1, 1, 1, 1))
    for _ in range(60):
        request = ask((1, 16))
        firsts.add(place(placement, request))
        placement.ended(1.0, request, 10)
    assert firsts == set(ALL)


def test_power_of_two_never_takes_the_fullest(ask: Ask, fleet: Fleet) -> None:
    """Whichever pair is drawn, the one that is fuller than all others loses."""
    placement = PowerOfTwo(fleet(1, 1, 1, 1))
    placement.streams = [0, 0, 9, 0]
    assert 2 not in {place(placement, ask((1, 16))) for _ in range(8)}


def test_cache_aware_follows_a_match_above_the_threshold(ask: Ask, fleet: Fleet) -> None:
    """A prompt of which more than 0.3 has been seen goes where it has been seen, though it is fuller."""
    placement = CacheAware(fleet(1, 1, 1, 1), CacheAwareRule())
    first = place(placement, ask((1, 160)))
    assert {place(placement, ask((1, 160), (2 + i, 160))) for i in range(6)} == {first}


def test_cache_aware_ignores_a_match_below_the_threshold(ask: Ask, fleet: Fleet) -> None:
    """Of this prompt only a fifth has been seen: the least counted worker takes it."""
    placement = CacheAware(fleet(1, 1, 1, 1), CacheAwareRule())
    first = place(placement, ask((1, 160)))
    assert place(placement, ask((1, 160), (2, 640))) != first


def test_cache_aware_gives_up_matching_when_out_of_balance(ask: Ask, fleet: Fleet) -> None:
    """With both thresholds passed, the least counted worker takes even a full match."""
    placement = CacheAware(fleet(1, 1, 1, 1), CacheAwareRule(absolute=2, relative=1.5))
    first = place(placement, ask((1, 160)))
    assert [place(placement, ask((1, 160))) for _ in range(2)] == [first, first]
    assert place(placement, ask((1, 160))) != first


def test_cache_aware_forgets_a_worker_that_restarted(ask: Ask, fleet: Fleet) -> None:
    """A new life has empty caches; nothing draws requests there."""
    placement = CacheAware(fleet(1, 1), CacheAwareRule())
    first = place(placement, ask((1, 160)), [0, 1])
    placement.joined(1.0, first)
    assert place(placement, ask((1, 160)), [0, 1]) != first


def test_the_data_parallel_score_spreads_a_burst_between_reports(ask: Ask, fleet: Fleet) -> None:
    """Its own picks count at once, so that stale reports do not herd."""
    placement = DataParallelScore(fleet(1, 1, 1, 1))
    assert Counter(place(placement, ask((1, 16))) for _ in range(8)) == dict.fromkeys(ALL, 2)


def test_the_data_parallel_score_avoids_a_queue_behind_a_full_cache(ask: Ask, fleet: Fleet) -> None:
    """Two waiting behind a cache that is 90 % full weigh 2 + 2 * 6 * 0.4 = 6.8 streams, more than 6 running."""
    placement = DataParallelScore(fleet(1, 1))
    placement.report(0.0, 0, LoadReport(0, 2, 0.9, 0, 0.0, 0.0))
    placement.report(0.0, 1, LoadReport(6, 0, 0.1, 0, 0.0, 0.0))
    assert place(placement, ask((1, 16)), [0, 1]) == 1


@pytest.mark.parametrize("kind", [Random, RoundRobin, LeastRequest, PowerOfTwo, DataParallelScore])
def test_only_available_workers_are_picked(kind: type[Counting], ask: Ask, fleet: Fleet) -> None:
    """A worker that is away gets nothing, and a single one gets all."""
    placement = kind(fleet(1, 1, 1, 1))
    assert {place(placement, ask((1, 16)), [0, 3]) for _ in range(20)} == {0, 3}
    assert {place(placement, ask((1, 16)), [2]) for _ in range(5)} == {2}


@given(st.integers(0, 40), st.integers(0, 40))
def test_matching_counts_the_leading_blocks(total: int, cached: int) -> None:
    """Bisection finds what counting one by one would."""
    assert matched(range(total), set(range(cached))) == min(total, cached)
