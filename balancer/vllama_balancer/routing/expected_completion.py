"""Policy `expected-completion`: the worker that is expected to finish the request first.

Every candidate is scored, and everything is in seconds; only the shares V and D are tuned:

    cost = (P + u + V * a * (u - u*)) / R + O * (s * a + D * (e - e*)) + K * k / (1 - k)

    P   uncached prompt tokens in flight before their first token
    u   this request's uncached tokens on the worker; u* on the worker that has most of it cached
    a   streams
    R   prefill speed
    O   expected output tokens
    s   seconds by which one more stream lengthens a step
    e   seconds of an empty step; e* of the fastest worker
    k   projected use of the KV cache

P and a are this balancer's exact counts plus the excess in the worker's last report: the load of other balancers.

Costs within a small band of the best count as equal. Among them the longest cached prefix wins, then the fewest prompt
tokens in flight, then the fewest streams, then the fewest tokens assigned lately, then chance. Never an index and never
a turn: those send a burst to one worker.

- V keeps conversations at their caches: recomputing delays the streams beside it, and the next turn pays once more.
- D sends less to a slow worker while fast ones are not full. A slow worker gets less than its speed's share on purpose:
  a few requests to measure it, until a step of the loaded fast workers is as long as D makes one of its own.
- The memory term is for contexts that fill the caches.
- Slow start is for a worker that has to compile its kernels after a restart.

A worker's measurements fade while it is idle. Otherwise a worker that was slow once would get no request, measure
nothing and stay slow for ever. A worker without measurements counts as an average one.

`vllama simulate` removes one term at a time; its README has the figures, and the weights that were tried and rejected.
Only such comparisons justify another weight, so there is no flag for it.
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
"""Tie-breakers: the longest cached prefix, the fewest prompt tokens in flight, the fewest streams, the fewest tokens
assigned lately."""


class Weights(NamedTuple):
    """Bands, shares and penalties."""

    band_seconds: float = 0.020
    """Costs this close to the best are equal: below it, estimates are noise."""
    band_share: float = 0.05
    """The same, relative to the best."""
    band_streams: float = 1.0
    """The same, in streams beside the request: one more or less is chance, and may change by the next step."""
    recomputing: float = 0.1
    """V: the share of the time by which avoidable prefill delays each stream beside it that counts."""
    slowness: float = 0.25
    """D: the share of the time lost on a slow worker that counts; all of it would crowd the fast ones."""
    memory_seconds: float = 0.15
    """K: the penalty of a KV cache that is half full."""
    slow_start_seconds: float = 10.0
    """How long a worker counts as fresh after it became ready: its kernels and caches are cold."""
    others: float = 1.0
    """The share of other balancers' load, by the worker's own report, that counts."""
    ties: tuple[str, ...] = (HELD, PROMPTS, STREAMS, ASSIGNED)
    """Tie-breakers in order, the cached prefix always first; chance is the last."""


RECENT_SECONDS = 2.0
"""A measurement that is no older counts in full: even an idle worker reports more often."""
HALF_LIFE_SECONDS = 120.0
"""After this time without work, a worker's measurements count half."""

_STREAM_SECONDS = column("stream_seconds")
_PREFILL_RATE = column("prefill_tokens_per_second")


class Speeds(NamedTuple):
    """Measured speeds of a worker or of the fleet."""

    stream_seconds: float
    """By how much one more stream lengthens a decode step."""
    prefill_tokens_per_second: float
    """Speed of prefill."""


DEFAULT_SPEEDS = Speeds(0.0002, 20_000.0)
"""Before any worker has measured anything."""


def fastest(candidates: Sequence[Candidate]) -> Speeds:
    """Returns the best that any candidate has measured."""
    least = min(map(_STREAM_SECONDS, candidates), default=0.0)
    return Speeds(
        least or min(filter(None, map(_STREAM_SECONDS, candidates)), default=DEFAULT_SPEEDS.stream_seconds),
        max(map(_PREFILL_RATE, candidates), default=0.0) or DEFAULT_SPEEDS.prefill_tokens_per_second,
    )


def average(candidates: Sequence[Candidate], now: float) -> Speeds:
    """Returns the average of recent measurements, or of all if there is no recent one."""
    recent = [one for one in candidates if now - one.measured_at <= RECENT_SECONDS] or candidates
    return Speeds(
        _mean([one.stream_seconds for one in recent]) or DEFAULT_SPEEDS.stream_seconds,
        _mean([one.prefill_tokens_per_second for one in recent]) or DEFAULT_SPEEDS.prefill_tokens_per_second,
    )


def faded(candidate: Candidate, others: Speeds, now: float) -> Speeds:
    """Returns a worker's speeds, moved towards the others' the older they are; unmeasured ones are the others'."""
    trust = math.exp2(min((candidate.measured_at - now) / HALF_LIFE_SECONDS, 0.0))
    return Speeds(
        _mixed(candidate.stream_seconds, others.stream_seconds, trust),
        _mixed(candidate.prefill_tokens_per_second, others.prefill_tokens_per_second, trust),
    )


def _mixed(own: float, theirs: float, trust: float) -> float:
    return theirs + (own - theirs) * trust if own else theirs


def _mean(values: Sequence[float]) -> float:
    """Returns the average of the measured values; 0 when there is none."""
    measured = [value for value in values if value]
    return sum(measured) / len(measured) if measured else 0.0


NOTICEABLY_SLOW = 1.15
"""A worker this many times as slow as the fastest is slow beyond the noise of the measurement."""
FULL = 0.99
"""Use of the KV cache beyond which it makes no difference; keeps the memory term finite."""
FULL_PENALTY = FULL / (1.0 - FULL)
"""The memory term of a full cache, in units of K."""
FRESH_SPEED = 0.25
"""Share of its speed that is assumed of a worker at the very beginning of its slow start."""

_BURDENS = {PROMPTS: "prompt_tokens", STREAMS: "streams", ASSIGNED: "assigned_until"}
"""Fields of a candidate that break ties: less is better."""


class ExpectedCompletion:
    """Picks the candidate with the least expected time to completion."""

    name = "expected-completion"

    def __init__(self, weights: Weights | None = None) -> None:
        """Without `weights`, the shipped ones apply."""
        self._weights = weights or Weights()
        self._prefers_prefix = HELD in self._weights.ties
        columns = [Candidate._fields.index(_BURDENS[tie]) for tie in self._weights.ties if tie != HELD]
        # One tuple for each candidate, compared field by field in the order of the tie-breakers.
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
        """Returns the cost of each candidate in seconds; with `terms`, adds its prefill, decode and memory terms.

        The hot loop of a decision: everything is unpacked at once, and rare cases are behind conditions.
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
                if now - measured_at > RECENT_SECONDS or not rate or not stream_seconds:
                    means = means or average(candidates, now)
                    stream_seconds, rate = faded(candidate, means, now)
                if stream_seconds > slow_stream:
                    extra_steps = slowness * STREAMS_PER_STEP * (stream_seconds - best.stream_seconds)
            if reported_at < oldest_report:
                kv_use = 0.0
            elif other_streams:
                streams += others * other_streams
                # The prompts in flight at the time of the report have been computed since, at full speed.
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
    """Returns the factor by which a fresh worker counts as slower; falls to 1 at the end of the slow start."""
    return 1.0 / (FRESH_SPEED + (1.0 - FRESH_SPEED) * max(share, 0.0))
