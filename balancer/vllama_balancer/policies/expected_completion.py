"""Policy `expected-completion`: the worker that will probably be through with the request first.

Every candidate is scored, and everything is in seconds, so that no weights have to be guessed:

    cost = slot_wait + (P + u) / R + O * s * a + K * k / (1 - k)

P uncached prompt tokens in flight before their first token, u this request's uncached tokens on
that worker, R prefill speed, O expected output tokens, s seconds by which one more stream
lengthens a step, a streams, k projected use of the KV cache. Costs within a small band of the
best are equal for all that can be known; among them the longest cached prefix wins, then the
fewest tokens assigned lately, then chance. Never an index and never a turn: those herd.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vllama_balancer.policies.policy import Choice, Score
from vllama_balancer.snapshot import ASSIGNED_HALF_LIFE_SECONDS, REPORT_LIFETIME_SECONDS

if TYPE_CHECKING:
    from random import Random

    from vllama_balancer.snapshot import Candidate, Demand, Snapshot

BAND_SECONDS = 0.020
"""Costs this close to the best are equal: below it, estimates are noise."""
BAND_SHARE = 0.05
"""The same, relative to the best."""
MEMORY_SECONDS = 0.15
"""K: the penalty of a KV cache that is half full."""
MOST_MEMORY_USE = 0.99
"""Keeps the memory term finite."""
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
        scores = self._score_all(snapshot, demand)
        best = min(score.total_seconds for score in scores)
        limit = best + max(BAND_SECONDS, BAND_SHARE * best)
        equal = [index for index, score in enumerate(scores) if score.total_seconds <= limit]
        if len(equal) == 1:
            return Choice(candidates[equal[0]].name, "least-cost", scores)
        return _among_equals([(candidates[index], scores[index]) for index in equal], snapshot.now, rng, scores)

    def _score_all(self, snapshot: Snapshot, demand: Demand) -> tuple[Score, ...]:
        prefill = _mean_measured([c.prefill_tokens_per_second for c in snapshot.candidates])
        step = _mean_measured([c.step_seconds for c in snapshot.candidates])
        rate = prefill or DEFAULT_PREFILL_TOKENS_PER_SECOND
        step = step or DEFAULT_STEP_SECONDS
        return tuple([_score(candidate, demand, snapshot.now, rate, step) for candidate in snapshot.candidates])


def _mean_measured(values: list[float]) -> float:
    measured = [value for value in values if value > 0]
    return sum(measured) / len(measured) if measured else 0.0


def _score(candidate: Candidate, demand: Demand, now: float, default_rate: float, default_step: float) -> Score:
    fresh = now - candidate.reported_at <= REPORT_LIFETIME_SECONDS
    streams = max(candidate.streams, candidate.reported_streams) if fresh else candidate.streams
    cached = min(demand.cached_tokens.get(candidate.name, 0), demand.prompt_tokens)
    # The step was measured with the streams of the report that told it.
    step = candidate.step_seconds or default_step
    per_stream = step / (STREAMS_PER_STEP + candidate.reported_streams)
    uncached = candidate.prompt_tokens + demand.prompt_tokens - cached
    prefill = uncached / (candidate.prefill_tokens_per_second or default_rate)
    decode = demand.output_tokens * per_stream * streams
    slot_wait = _slot_wait(candidate, demand, step) if fresh else 0.0
    memory = _memory(candidate, demand, fresh)
    total = (slot_wait + prefill + decode + memory) / _warmth(now - candidate.ready_at)
    return Score(candidate.name, slot_wait, prefill, decode, memory, total, cached)


def _slot_wait(candidate: Candidate, demand: Demand, step: float) -> float:
    """Streams that wait in the engine were put there by others; each leaves once in O steps per slot."""
    if not candidate.reported_waiting:
        return 0.0
    return candidate.reported_waiting * demand.output_tokens * step / max(candidate.max_streams, 1)


def _memory(candidate: Candidate, demand: Demand, fresh: bool) -> float:
    if not candidate.kv_cache_tokens:
        return 0.0
    used = candidate.kv_tokens / candidate.kv_cache_tokens
    if fresh and candidate.reported_kv_use > used:
        used = candidate.reported_kv_use
    use = used + (demand.prompt_tokens + demand.output_tokens) / candidate.kv_cache_tokens
    use = min(use, MOST_MEMORY_USE)
    return MEMORY_SECONDS * use / (1.0 - use)


def _warmth(age_seconds: float) -> float:
    """Speed that a worker is trusted with: rises from FRESH_SPEED to 1 over the slow start."""
    if age_seconds >= SLOW_START_SECONDS:
        return 1.0
    return FRESH_SPEED + (1.0 - FRESH_SPEED) * max(age_seconds, 0.0) / SLOW_START_SECONDS


def _among_equals(equal: list[tuple[Candidate, Score]], now: float, rng: Random, scores: tuple[Score, ...]) -> Choice:
    longest = max(score.cached_tokens for _, score in equal)
    reason = "equal-cost"
    if longest:
        holders = [pair for pair in equal if pair[1].cached_tokens == longest]
        reason = "cached-prefix" if len(holders) < len(equal) else reason
        equal = holders
    if len(equal) == 1:
        return Choice(equal[0][0].name, reason, scores)
    assigned = [_assigned(candidate, now) for candidate, _ in equal]
    fewest = min(assigned)
    calm = [pair[0] for pair, tokens in zip(equal, assigned, strict=True) if tokens == fewest]
    return Choice(rng.choice(calm).name, reason, scores)


def _assigned(candidate: Candidate, now: float) -> float:
    if not candidate.assigned_tokens:
        return 0.0
    return candidate.assigned_tokens * math.exp2((candidate.assigned_at - now) / ASSIGNED_HALF_LIFE_SECONDS)
