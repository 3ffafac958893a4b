"""Policy `expected-completion`: the worker that will probably be through with the request first.

Every candidate is scored, and everything is in seconds; only the shares V and D are tuned:

    cost = slot_wait + (P + u + V * a * (u - u*)) / R + O * (s * a + D * (e - e*)) + K * k / (1 - k)

P uncached prompt tokens in flight before their first token, u this request's uncached tokens on
that worker and u* on the worker that holds most of it, a streams, R prefill speed, O expected
output tokens, s seconds by which one more stream lengthens a step, e seconds of an empty step and
e* the fastest worker's, k projected use of the KV cache. Costs within a small band of the best
are equal for all that can be known; among them the longest cached prefix wins, then the fewest
prompt tokens in flight, then the fewest streams, then the fewest tokens assigned lately, then
chance. Never an index and never a turn: those herd.

The terms are weighed in `vllama_balancer.simulate` (its README has the numbers). V keeps
conversations at their caches: what a worker computes again delays the streams beside it, and the
next turn pays once more. D sends less to a slow worker while fast ones are not full. Prompt tokens
in flight break ties because two prompts in one step both wait for both. The memory term and the
slow start make no difference there, for the simulated engine never preempts a stream and has no
cold kernels; they stay as a guard against what it does not simulate. Weights that were tried and
lost: all of D (crowds the fast workers), half of s (longer makespan), V for an idle worker too
(piles a shared prefix onto one), and a narrower band (gives up caches for milliseconds).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from vllama_balancer.placement.snapshot import ASSIGNED_HALF_LIFE_SECONDS, REPORT_LIFETIME_SECONDS
from vllama_balancer.policies.policy import Choice, Score

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from vllama_balancer.placement.snapshot import Candidate, Demand, Snapshot

BAND_SECONDS = 0.020
"""Costs this close to the best are equal: below it, estimates are noise."""
BAND_SHARE = 0.05
"""The same, relative to the best."""
RECOMPUTING = 0.1
"""V: the share of the time by which avoidable prefill delays each stream beside it that counts."""
SLOWNESS = 0.25
"""D: the share of the time lost on a slow worker that counts; all of it would crowd the fast ones."""
NOTICEABLY_SLOW = 1.15
"""Steps that many times as long as the fastest worker's are no noise of the measurement."""
MEMORY_SECONDS = 0.15
"""K: the penalty of a KV cache that is half full."""
FULL = 0.99
"""Use of the KV cache beyond which it makes no difference; keeps the memory term finite."""
FULL_PENALTY = FULL / (1.0 - FULL)
"""The memory term of a full cache, in units of MEMORY_SECONDS."""
SLOW_START_SECONDS = 10.0
"""How long a worker counts as fresh after it became ready; its kernels and caches are cold."""
FRESH_SPEED = 0.25
"""Share of its speed that a worker is trusted with at the very beginning."""
STREAMS_PER_STEP = 50.0
"""Streams that double the time of an empty step; turns a measured step into seconds per stream."""
DEFAULT_STEP_SECONDS = 0.010
"""A decode step, where no candidate has measured one."""
DEFAULT_PREFILL_TOKENS_PER_SECOND = 20_000.0
"""Prefill speed, where no candidate has measured one."""


class ExpectedCompletion:
    """Picks the candidate with the least expected time to completion."""

    name = "expected-completion"

    def pick(self, snapshot: Snapshot, demand: Demand, rng: Random) -> Choice | None:
        """Picks one of the snapshot's candidates; None only when there is none."""
        candidates = snapshot.candidates
        if not candidates:
            return None
        speeds = _Speeds.of(candidates, demand)
        now = snapshot.now
        terms = [_terms(candidate, demand, now, speeds) for candidate in candidates]
        costs = [slot_wait + prefill + decode + memory for slot_wait, prefill, decode, memory in terms]
        best = min(costs)
        limit = best + max(BAND_SECONDS, BAND_SHARE * best)
        equal = [candidate for candidate, cost in zip(candidates, costs, strict=True) if cost <= limit]
        if len(equal) == 1:
            return Choice(equal[0].name, "least-cost")
        return _among_equals(equal, demand, snapshot.now, rng)

    def explain(self, snapshot: Snapshot, demand: Demand) -> Sequence[Score]:
        """Computes every candidate's cost once more, term by term."""
        speeds = _Speeds.of(snapshot.candidates, demand)
        return [
            Score(c.name, *_terms(c, demand, snapshot.now, speeds), demand.cached_tokens.get(c.name, 0))
            for c in snapshot.candidates
        ]


class _Speeds(NamedTuple):
    """What a candidate is compared with: the fleet's means, where it has not measured, and the fleet's best."""

    prefill_tokens_per_second: float
    step_seconds: float
    fastest_per_stream_seconds: float
    longest_cached_tokens: int

    @classmethod
    def of(cls, candidates: Sequence[Candidate], demand: Demand) -> _Speeds:
        rates = [candidate.prefill_tokens_per_second for candidate in candidates]
        steps = [candidate.step_seconds for candidate in candidates]
        return cls(
            0.0 if all(rates) else _mean_measured(rates) or DEFAULT_PREFILL_TOKENS_PER_SECOND,
            0.0 if all(steps) else _mean_measured(steps) or DEFAULT_STEP_SECONDS,
            min(
                [c.step_seconds / (STREAMS_PER_STEP + c.reported_streams) for c in candidates if c.step_seconds],
                default=0.0,
            ),
            max(demand.cached_tokens.values(), default=0),
        )


def _mean_measured(values: Sequence[float]) -> float:
    measured = [value for value in values if value]
    return sum(measured) / len(measured) if measured else 0.0


def _terms(candidate: Candidate, demand: Demand, now: float, speeds: _Speeds) -> tuple[float, float, float, float]:
    """Computes slot wait, prefill, decode and memory, in seconds.

    Unpacks its arguments at once: this runs for every candidate of every decision.
    """
    (
        name, streams, max_streams, prompt_tokens, kv_tokens, kv_cache_tokens, _, _,
        reported_streams, reported_waiting, reported_kv_use, reported_at, rate, step, ready_at,
    ) = candidate  # fmt: skip
    length, output, cached_tokens = demand
    slot_wait = memory = 0.0
    step = step or speeds.step_seconds
    # The step was measured with the streams of the report that told it.
    per_stream = step / (STREAMS_PER_STEP + reported_streams)
    if now - reported_at > REPORT_LIFETIME_SECONDS:
        reported_waiting, reported_kv_use = 0, 0.0
    elif reported_streams > streams:
        streams = reported_streams
    if reported_waiting:
        # They were put there by others; each leaves a slot free once in `output` steps.
        slot_wait = reported_waiting * output * step / max_streams
    uncached: float = prompt_tokens + length
    if cached_tokens:
        cached = cached_tokens.get(name, 0)
        uncached += RECOMPUTING * streams * (speeds.longest_cached_tokens - cached) - cached
    if kv_cache_tokens:
        used = kv_tokens / kv_cache_tokens
        use = (used if used > reported_kv_use else reported_kv_use) + (length + output) / kv_cache_tokens
        memory = MEMORY_SECONDS * (use / (1.0 - use) if use < FULL else FULL_PENALTY)
    prefill = uncached / (rate or speeds.prefill_tokens_per_second)
    decode = output * per_stream * streams
    fastest = speeds.fastest_per_stream_seconds
    if fastest and per_stream > NOTICEABLY_SLOW * fastest:
        decode += SLOWNESS * output * STREAMS_PER_STEP * (per_stream - fastest)
    if now - ready_at >= SLOW_START_SECONDS:
        return slot_wait, prefill, decode, memory
    cold = _coldness(now - ready_at)
    return slot_wait * cold, prefill * cold, decode * cold, memory * cold


def _coldness(age_seconds: float) -> float:
    """By how much a fresh worker is taken to be slower: falls to 1 at the end of the slow start."""
    return 1.0 / (FRESH_SPEED + (1.0 - FRESH_SPEED) * max(age_seconds, 0.0) / SLOW_START_SECONDS)


def _among_equals(equal: Sequence[Candidate], demand: Demand, now: float, rng: Random) -> Choice:
    held = [demand.cached_tokens.get(candidate.name, 0) for candidate in equal] if demand.cached_tokens else [0]
    longest = max(held)
    reason = "equal-cost"
    if longest:
        holders = [candidate for candidate, tokens in zip(equal, held, strict=True) if tokens == longest]
        if len(holders) == 1:
            return Choice(holders[0].name, "cached-prefix")
        reason = "cached-prefix" if len(holders) < len(equal) else reason
        equal = holders
    burdens = [(candidate.prompt_tokens, candidate.streams) for candidate in equal]
    least = min(burdens)
    equal = [candidate for candidate, burden in zip(equal, burdens, strict=True) if burden == least]
    if len(equal) == 1:
        return Choice(equal[0].name, reason)
    assigned = [_assigned(candidate, now) for candidate in equal]
    fewest = min(assigned)
    calm = [candidate for candidate, tokens in zip(equal, assigned, strict=True) if tokens == fewest]
    return Choice(calm[int(rng.random() * len(calm))].name, reason)


def _assigned(candidate: Candidate, now: float) -> float:
    if not candidate.assigned_tokens:
        return 0.0
    return candidate.assigned_tokens * math.exp2((candidate.assigned_at - now) / ASSIGNED_HALF_LIFE_SECONDS)
