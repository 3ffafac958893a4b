"""What the terms of `expected-completion` weigh: the shipped values, and the means to try others.

`vllama_benchmarks.simulate` takes one term away at a time and shows what that costs; see the table in
its README. Nothing but such comparisons has a reason to change a weight, so no flag does.

How fast workers are taken to be: as measured, and otherwise like those that have measured lately.

What a worker measured while it had work says less and less once it has none. Without that, a worker
that was slow once would get no request, measure nothing and stay slow for ever; so it is tried again
after some minutes without work. A worker that has not measured yet is an average one.

Policy `expected-completion`: the worker that will probably be through with the request first.

Every candidate is scored, and everything is in seconds; only the shares V and D are tuned:

    cost = (P + u + V * a * (u - u*)) / R + O * (s * a + D * (e - e*)) + K * k / (1 - k)

P uncached prompt tokens in flight before their first token, u this request's uncached tokens on
that worker and u* on the worker that holds most of it, a streams, R prefill speed, O expected
output tokens, s seconds by which one more stream lengthens a step, e seconds of an empty step and
e* the fastest worker's, k projected use of the KV cache. P and a are this balancer's exact counts,
and what the worker's last report shows beyond them: that is what other balancers have put there.

Costs within a small band of the best are equal for all that can be known; among them the longest
cached prefix wins, then the fewest prompt tokens in flight, then the fewest streams, then the
fewest tokens assigned lately, then chance. Never an index and never a turn: those herd.

Each term is weighed in `vllama_benchmarks.simulate`; the README there has the numbers. V keeps
conversations at their caches: what a worker computes again delays the streams beside it, and the
next turn pays once more. It is worth two percent of the tail of chats and nothing elsewhere. D sends
less to a slow worker while fast ones are not full; the memory term is for contexts that fill the
caches, slow start for a worker that has to compile its kernels when it comes back. The wait for a
place in the engine's batch made no difference anywhere and is gone: streams that wait are counted
as streams. Weights that were tried and lost: all of D (crowds the fast workers), half of s (longer
makespan), V for an idle worker too (piles a shared prefix onto one), a delay of the streams beside
any prefill (the same), a narrower band (gives up caches for milliseconds) and one of two streams
(crowds a hot prefix).

A slow worker gets less than its speed's share, on purpose. Of 800 requests, one worker of four that
is five times slower would get 50 by its share, and does when streams are counted. Here it gets two
or three, to be measured, until each of the others carries some fifty streams, as that is when a
step of theirs becomes as long as D makes one of its own; and the fleet is done up to a fifth
sooner, with a tail of 0.03 s instead of 0.13 s. It is not forgotten: old measurements
fade (see `speeds.py`).
"""

from __future__ import annotations

import math
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from vllama_balancer.routing.policy import Choice, Score
from vllama_balancer.routing.snapshot import REPORT_LIFETIME_SECONDS, STREAMS_PER_STEP, Candidate, column

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

    from vllama_balancer.routing.snapshot import Demand, Snapshot


HELD, PROMPTS, STREAMS, ASSIGNED = "held", "prompts", "streams", "assigned"
"""What may decide among equals: the longest cached prefix, the fewest prompt tokens in flight, the fewest streams,
the fewest tokens assigned lately."""


class Weights(NamedTuple):
    """Bands, shares and penalties."""

    band_seconds: float = 0.020
    """Costs this close to the best are equal: below it, estimates are noise."""
    band_share: float = 0.05
    """The same, relative to the best."""
    band_streams: float = 1.0
    """The same, in streams beside the request: one more or less is chance, and will have changed by the next step."""
    recomputing: float = 0.1
    """V: the share of the time by which avoidable prefill delays each stream beside it that counts."""
    slowness: float = 0.25
    """D: the share of the time lost on a slow worker that counts; all of it would crowd the fast ones."""
    memory_seconds: float = 0.15
    """K: the penalty of a KV cache that is half full."""
    slow_start_seconds: float = 10.0
    """How long a worker counts as fresh after it became ready: its kernels and caches are cold."""
    others: float = 1.0
    """The share of what other balancers have put on a worker, by its own report, that counts."""
    ties: tuple[str, ...] = (HELD, PROMPTS, STREAMS, ASSIGNED)
    """What decides among equals, the cached prefix before anything else, then one after the other; at last chance."""


LATELY_SECONDS = 2.0
"""A measurement that is no older counts in full: even an idle worker reports more often."""
HALF_LIFE_SECONDS = 120.0
"""After so long without work, what a worker has measured says half as much."""


_STREAM_SECONDS = column("stream_seconds")
_PREFILL_RATE = column("prefill_tokens_per_second")


class Speeds(NamedTuple):
    """What a worker, or the fleet, measures."""

    stream_seconds: float
    """By how much one more stream lengthens a decode step."""
    prefill_tokens_per_second: float
    """Speed of prefill."""


DEFAULT_SPEEDS = Speeds(0.0002, 20_000.0)
"""Where nobody has measured anything."""


def fastest(candidates: Sequence[Candidate]) -> Speeds:
    """Finds the best that any of the candidates has measured."""
    least = min(map(_STREAM_SECONDS, candidates), default=0.0)
    return Speeds(
        least or min(filter(None, map(_STREAM_SECONDS, candidates)), default=DEFAULT_SPEEDS.stream_seconds),
        max(map(_PREFILL_RATE, candidates), default=0.0) or DEFAULT_SPEEDS.prefill_tokens_per_second,
    )


def average(candidates: Sequence[Candidate], now: float) -> Speeds:
    """Averages what the candidates have measured lately, or else at any time."""
    lately = [one for one in candidates if now - one.measured_at <= LATELY_SECONDS] or candidates
    return Speeds(
        _mean([one.stream_seconds for one in lately]) or DEFAULT_SPEEDS.stream_seconds,
        _mean([one.prefill_tokens_per_second for one in lately]) or DEFAULT_SPEEDS.prefill_tokens_per_second,
    )


def faded(candidate: Candidate, others: Speeds, now: float) -> Speeds:
    """Moves a worker's old measurements towards the others'; what it has not measured is theirs."""
    trust = math.exp2(min((candidate.measured_at - now) / HALF_LIFE_SECONDS, 0.0))
    return Speeds(
        _mixed(candidate.stream_seconds, others.stream_seconds, trust),
        _mixed(candidate.prefill_tokens_per_second, others.prefill_tokens_per_second, trust),
    )


def _mixed(own: float, theirs: float, trust: float) -> float:
    return theirs + (own - theirs) * trust if own else theirs


def _mean(values: Sequence[float]) -> float:
    """Averages what has been measured; 0 when nothing has."""
    measured = [value for value in values if value]
    return sum(measured) / len(measured) if measured else 0.0


NOTICEABLY_SLOW = 1.15
"""Being that many times as slow as the fastest worker is no noise of the measurement."""
FULL = 0.99
"""Use of the KV cache beyond which it makes no difference; keeps the memory term finite."""
FULL_PENALTY = FULL / (1.0 - FULL)
"""The memory term of a full cache, in units of K."""
FRESH_SPEED = 0.25
"""Share of its speed that a worker is trusted with at the very beginning."""

_BURDENS = {PROMPTS: "prompt_tokens", STREAMS: "streams", ASSIGNED: "assigned_until"}
"""Fields of a candidate that break ties: less is better."""


class ExpectedCompletion:
    """Picks the candidate with the least expected time to completion."""

    name = "expected-completion"

    def __init__(self, weights: Weights | None = None) -> None:
        """Weighs the terms as shipped, unless told otherwise."""
        self._weights = weights or Weights()
        self._prefers_prefix = HELD in self._weights.ties
        columns = [Candidate._fields.index(_BURDENS[tie]) for tie in self._weights.ties if tie != HELD]
        # One tuple for each candidate, which compares as the ties do, one after the other.
        self._burden = itemgetter(*columns)

    def pick(self, snapshot: Snapshot, demand: Demand, rng: Random) -> Choice | None:
        """Picks one of the snapshot's candidates; None only when there is none."""
        candidates = snapshot.candidates
        if len(candidates) <= 1:
            return Choice(candidates[0].name, "only-candidate") if candidates else None
        best_speeds = fastest(candidates)
        costs = self._costs(snapshot, demand, best_speeds)
        band_seconds, band_share, band_streams = self._weights[:3]
        best = min(costs)
        stream = demand.output_tokens * best_speeds.stream_seconds
        limit = best + max(band_seconds, band_share * best, band_streams * stream)
        equal = [candidate for candidate, cost in zip(candidates, costs, strict=True) if cost <= limit]
        if len(equal) == 1:
            return Choice(equal[0].name, "least-cost")
        return self._among_equals(equal, demand.cached_tokens, rng)

    def explain(self, snapshot: Snapshot, demand: Demand) -> Sequence[Score]:
        """Computes every candidate's cost once more, term by term."""
        terms: list[tuple[float, float, float]] = []
        self._costs(snapshot, demand, fastest(snapshot.candidates), terms)
        return [
            Score(candidate.name, *parts, demand.cached_tokens.get(candidate.name, 0))
            for candidate, parts in zip(snapshot.candidates, terms, strict=True)
        ]

    def _among_equals(self, equal: Sequence[Candidate], held: Mapping[str, int], rng: Random) -> Choice:
        """Picks the longest cached prefix, then the least burden, then by lot."""
        reason = "equal-cost"
        if held and self._prefers_prefix:
            prefixes = [held.get(candidate.name, 0) for candidate in equal]
            longest = max(prefixes)
            holders = [one for one, prefix in zip(equal, prefixes, strict=True) if prefix == longest]
            if len(holders) < len(equal):
                equal, reason = holders, "cached-prefix"
        burdens = list(map(self._burden, equal))
        least = min(burdens)
        lightest = [one for one, burden in zip(equal, burdens, strict=True) if burden == least]
        lot = int(rng.random() * len(lightest)) if len(lightest) > 1 else 0
        return Choice(lightest[lot].name, reason)

    def _costs(
        self, snapshot: Snapshot, demand: Demand, best: Speeds, terms: list[tuple[float, float, float]] | None = None
    ) -> list[float]:
        """Computes the cost of each candidate, in seconds; notes its prefill, decode and memory, if that is wanted.

        This is where a decision spends its time, so everything is unpacked at once, and what is
        seldom needed is behind a condition.
        """
        now, candidates = snapshot
        length, output, held = demand
        _, _, _, recomputing, slowness, memory_seconds, slow_start, others, _ = self._weights
        whole, longest = length + output, max(held.values()) if held else 0
        slow_stream, slow_rate = NOTICEABLY_SLOW * best.stream_seconds, best.prefill_tokens_per_second / NOTICEABLY_SLOW
        oldest_report, warm_before = now - REPORT_LIFETIME_SECONDS, now - slow_start
        means: Speeds | None = None
        costs = []
        streams: float
        tokens: float
        for candidate in candidates:
            (
                name, streams, _, tokens, kv_reserved, kv_per_token, _, other_streams,
                other_tokens, kv_use, reported_at, rate, stream_seconds, measured_at, ready_at,
            ) = candidate  # fmt: skip
            extra_steps = 0.0
            if rate < slow_rate or not 0.0 < stream_seconds <= slow_stream:
                if now - measured_at > LATELY_SECONDS or not rate or not stream_seconds:
                    means = means or average(candidates, now)
                    stream_seconds, rate = faded(candidate, means, now)
                if stream_seconds > slow_stream:
                    extra_steps = slowness * STREAMS_PER_STEP * (stream_seconds - best.stream_seconds)
            if reported_at < oldest_report:
                kv_use = 0.0
            elif other_streams:
                streams += others * other_streams
                # What they had in flight when the worker reported has been computed since, as fast as it can.
                tokens += others * max(other_tokens - rate * (now - reported_at), 0.0)
            if held:
                cached = held.get(name, 0)
                tokens += recomputing * streams * (longest - cached) - cached
            prefill = (tokens + length) / rate
            decode = output * (streams * stream_seconds + extra_steps)
            use = (kv_reserved if kv_reserved > kv_use else kv_use) + whole * kv_per_token
            memory = memory_seconds * (use / (1.0 - use) if use < FULL else FULL_PENALTY)
            if ready_at > warm_before:
                cold = _coldness((now - ready_at) / slow_start)
                prefill, decode, memory = prefill * cold, decode * cold, memory * cold
            costs.append(prefill + decode + memory)
            if terms is not None:
                terms.append((prefill, decode, memory))
        return costs


def _coldness(share: float) -> float:
    """By how much a fresh worker is taken to be slower: falls to 1 at the end of the slow start."""
    return 1.0 / (FRESH_SPEED + (1.0 - FRESH_SPEED) * max(share, 0.0))
