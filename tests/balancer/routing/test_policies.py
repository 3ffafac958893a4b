"""Every policy behind the common interface, and the properties of each."""

import math
from collections import Counter
from random import Random

import pytest

from vllama_balancer.errors import ConfigError
from vllama_balancer.routing.baselines import LeastLoad
from vllama_balancer.routing.expected_completion import ExpectedCompletion, Weights
from vllama_balancer.routing.policies import POLICIES, make_policy
from vllama_balancer.routing.snapshot import Candidate, Demand, Snapshot

NOW = 1000.0

every_policy = pytest.mark.parametrize("name", POLICIES)


def candidate(name, streams=0, max_streams=64, **fields):
    """A warm worker with an empty cache."""
    return Candidate(name, streams, max_streams, **{"kv_per_token": 1 / 200_000, "measured_at": NOW, **fields})


def snapshot(*candidates):
    """The candidates now."""
    return Snapshot(NOW, candidates)


def demand(prompt_tokens=200, output_tokens=128, **cached):
    """A request, and the tokens of it that each worker has cached."""
    return Demand(prompt_tokens, output_tokens, cached)


def spread(policy, candidates, count, request=None):
    """Counts the picks of many independent requests."""
    rng = Random(11)
    return Counter(policy.pick(snapshot(*candidates), request or demand(), rng).worker for _ in range(count))


@every_policy
def test_without_candidates_no_worker_is_picked(name):
    """None, and no error."""
    assert make_policy(name).pick(snapshot(), demand(), Random(1)) is None


@every_policy
def test_the_only_candidate_is_picked(name):
    """However loaded it is."""
    busy = candidate("a", streams=63, prompt_tokens=10**6, kv_reserved=5.0)
    assert make_policy(name).pick(snapshot(busy), demand(), Random(1)).worker == "a"


@every_policy
def test_a_pick_names_a_candidate_and_a_reason(name):
    """Both go into the reply's metadata."""
    choice = make_policy(name).pick(snapshot(candidate("a"), candidate("b")), demand(), Random(1))
    assert choice.worker in {"a", "b"}
    assert choice.reason


@every_policy
def test_equal_workers_get_equal_shares(name):
    """No worker is favoured by its place in the list.

    A fair choice among 8 sends 4000/8 = 500 to each, with a standard deviation of
    sqrt(4000 * 1/8 * 7/8) = 21; five of those are allowed.
    """
    counts = spread(make_policy(name), [candidate(f"w{i}") for i in range(8)], 4000)
    assert len(counts) == 8
    assert all(abs(count - 500) <= 5 * 21 for count in counts.values())


@every_policy
def test_picks_do_not_depend_on_the_order_of_the_candidates(name):
    """The same shares when the list is reversed."""
    workers = [candidate(f"w{i}") for i in range(4)]
    counts = spread(make_policy(name), workers[::-1], 4000)
    # Standard deviation sqrt(4000 * 1/4 * 3/4) = 27.
    assert all(abs(count - 1000) <= 5 * 27 for count in counts.values())


@pytest.mark.parametrize("name", ["expected-completion", "least-load"])
def test_a_burst_of_reserved_picks_spreads_evenly(name):
    """Each pick counts the ones before it."""
    policy, rng = make_policy(name), Random(3)
    streams, prompts = Counter(), Counter()
    for _ in range(64):
        workers = [candidate(f"w{i}", streams[f"w{i}"], prompt_tokens=prompts[f"w{i}"]) for i in range(4)]
        worker = policy.pick(snapshot(*workers), demand(prompt_tokens=2000), rng).worker
        streams[worker] += 1
        prompts[worker] += 2000
    assert set(streams.values()) == {16}


@pytest.mark.parametrize("name", ["expected-completion", "least-load"])
def test_an_idle_worker_is_preferred_to_a_busy_one(name):
    """By more than any band."""
    counts = spread(make_policy(name), [candidate("idle"), candidate("busy", streams=60, prompt_tokens=50_000)], 100)
    assert counts == {"idle": 100}


def test_least_load_measures_streams_against_size():
    """A worker of twice the size with as many streams is half as loaded."""
    counts = spread(LeastLoad(), [candidate("small", 4, 8), candidate("large", 4, 16)], 50)
    assert counts == {"large": 50}


def test_round_robin_continues_when_workers_leave():
    """No worker is skipped or picked twice because the list became shorter."""
    policy = make_policy("round-robin")
    rng, workers = Random(1), [candidate(name) for name in "abcd"]
    picks = [policy.pick(snapshot(*workers), demand(), rng).worker for _ in range(2)]
    picks += [policy.pick(snapshot(workers[0], workers[2], workers[3]), demand(), rng).worker for _ in range(3)]
    assert picks == ["a", "b", "c", "d", "a"]


def test_waiting_prefill_counts_in_seconds_of_the_workers_own_speed():
    """Ten times the tokens on a worker twenty times as fast is the shorter wait."""
    slow = candidate("slow", prompt_tokens=1000, prefill_tokens_per_second=1000.0)
    fast = candidate("fast", prompt_tokens=10_000, prefill_tokens_per_second=20_000.0)
    assert spread(ExpectedCompletion(), [slow, fast], 20) == {"fast": 20}


def test_a_cached_prefix_wins_where_it_saves_enough():
    """12,000 cached tokens are worth more than a few streams."""
    holder = candidate("holder", streams=6)
    counts = spread(ExpectedCompletion(), [holder, candidate("other")], 20, demand(12_000, holder=11_900))
    assert counts == {"holder": 20}


def test_a_cached_prefix_does_not_win_against_a_long_queue():
    """A hot prefix must not send everything to one worker."""
    holder = candidate("holder", streams=30, prompt_tokens=60_000)
    counts = spread(ExpectedCompletion(), [holder, candidate("other")], 20, demand(6000, holder=5900))
    assert counts == {"other": 20}


def test_among_equals_the_longest_prefix_wins():
    """A conversation stays at its worker as long as that costs nothing."""
    workers = [candidate("a"), candidate("b"), candidate("c")]
    counts = spread(ExpectedCompletion(), workers, 20, demand(300, b=200, c=100))
    assert counts == {"b": 20}
    choice = ExpectedCompletion().pick(snapshot(*workers), demand(300, b=200), Random(1))
    assert choice.reason == "cached-prefix"


def test_among_equals_the_least_recently_burdened_wins():
    """Recently assigned tokens break the tie, and fade."""
    recent = candidate("recent", assigned_until=NOW + 15)
    faded = candidate("faded", assigned_until=NOW - 45)
    assert spread(ExpectedCompletion(), [recent, faded], 20) == {"faded": 20}


def test_a_fresh_report_adds_the_load_of_other_balancers():
    """By local counts alone the worker would be idle."""
    shared = candidate("shared", other_streams=60, reported_at=NOW - 0.5)
    assert spread(ExpectedCompletion(), [shared, candidate("idle")], 20, demand(200, 4000)) == {"idle": 20}


def test_prompts_of_other_balancers_count_until_they_are_computed():
    """8000 tokens are 0.4 s of work: right after the report they repel, half a second later they are done."""
    picks = []
    for age in (0.0, 0.5):
        fields = {"other_streams": 1, "other_prompt_tokens": 8000, "reported_at": NOW - age}
        shared = candidate("shared", **fields, prefill_tokens_per_second=20_000.0, stream_seconds=0.0002)
        own = candidate("own", streams=4, prefill_tokens_per_second=20_000.0, stream_seconds=0.0002)
        picks.append(spread(ExpectedCompletion(), [shared, own], 20))
    assert picks == [{"own": 20}, {"shared": 20}]


def test_an_old_measurement_fades():
    """A worker that was slow and idles is avoided at first, and tried again after minutes without work."""
    shares = []
    for idle_seconds in (5.0, 1200.0):
        slow = candidate("slow", stream_seconds=0.001, prefill_tokens_per_second=4000.0, measured_at=NOW - idle_seconds)
        fast = candidate("fast", stream_seconds=0.0002, prefill_tokens_per_second=20_000.0)
        shares.append(spread(ExpectedCompletion(), [slow, fast], 200)["slow"])
    assert shares[0] == 0
    assert shares[1] > 50


def test_a_stale_report_is_ignored():
    """Otherwise a worker whose reports stopped would repel or attract for ever."""
    fields = {"other_streams": 60, "reported_kv_use": 0.99}
    shared = candidate("shared", **fields, reported_at=NOW - 5)
    counts = spread(ExpectedCompletion(), [shared, candidate("idle")], 400)
    assert abs(counts["shared"] - 200) <= 5 * math.sqrt(400 / 4)


def test_a_nearly_full_cache_repels():
    """Before streams have to be preempted."""
    full = candidate("full", kv_reserved=0.95)
    assert spread(ExpectedCompletion(), [full, candidate("empty")], 20, demand(1000)) == {"empty": 20}


def test_a_slower_worker_keeps_a_share():
    """A worker five times slower is used less, not never: the others fill up first."""
    policy, rng, streams = ExpectedCompletion(), Random(5), Counter()
    for _ in range(100):
        fast = candidate("fast", streams["fast"], stream_seconds=0.0002, prefill_tokens_per_second=20_000.0)
        slow = candidate("slow", streams["slow"], stream_seconds=0.001, prefill_tokens_per_second=4_000.0)
        streams[policy.pick(snapshot(fast, slow), demand(), rng).worker] += 1
    assert 5 <= streams["slow"] <= 35


def test_a_fresh_worker_gets_less_at_first():
    """Its share rises to the full one over the slow start."""
    shares = []
    for age in (0.0, Weights().slow_start_seconds):
        policy, rng, streams = ExpectedCompletion(), Random(5), Counter()
        for _ in range(90):
            fresh = candidate("fresh", streams["fresh"], prompt_tokens=500 * streams["fresh"], ready_at=NOW - age)
            warm = candidate("warm", streams["warm"], prompt_tokens=500 * streams["warm"])
            streams[policy.pick(snapshot(fresh, warm), demand(500), rng).worker] += 1
        shares.append(streams["fresh"] / 90)
    assert shares[0] < 0.35
    assert abs(shares[1] - 0.5) < 0.05


def test_an_unmeasured_worker_counts_as_an_average_one():
    """Neither infinitely fast nor useless before its first report."""
    known = [candidate(f"k{i}", prefill_tokens_per_second=500.0, stream_seconds=0.001) for i in range(3)]
    counts = spread(ExpectedCompletion(), [*known, candidate("new")], 400)
    # Standard deviation sqrt(400 * 1/4 * 3/4) = 8.7.
    assert abs(counts["new"] - 100) <= 5 * 8.7


def test_the_explanation_lists_every_candidate_with_its_terms():
    """And the terms add up to what was compared."""
    scores = ExpectedCompletion().explain(
        snapshot(candidate("a"), candidate("b", 10, prompt_tokens=4000)), demand(a=64)
    )
    assert [score.worker for score in scores] == ["a", "b"]
    assert scores[0].cached_tokens == 64
    # A tenth of the 64 tokens that "a" would not compute again, for each of the ten streams beside them.
    assert scores[1].prefill_seconds == pytest.approx((4200 + 0.1 * 10 * 64) / 20_000)
    assert scores[1].total_seconds > scores[0].total_seconds


def test_an_unknown_policy_is_refused_by_name():
    """The message lists the known ones."""
    with pytest.raises(ConfigError, match=r"'fastest' is unknown.*expected-completion"):
        make_policy("fastest")
