"""What a decision needs to know of a candidate, computed once and kept until the candidate changes.

Of sixteen candidates one or two have changed since the decision before, so most of the arithmetic
is done already; what is left is linear in the request's lengths.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from vllama_balancer.placement.snapshot import REPORT_LIFETIME_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_balancer.placement.snapshot import Candidate
    from vllama_balancer.policies.weights import Weights

STREAMS_PER_STEP = 50.0
"""Streams that double the time of an empty step; turns a measured step into seconds per stream."""
FRESH_SPEED = 0.25
"""Share of its speed that a worker is trusted with at the very beginning."""
COLDNESS_SECONDS = 0.25
"""How often a fresh worker is looked at anew."""
MEASUREMENT_HALF_LIFE_SECONDS = 30.0
"""After so long without work, what a worker has measured says half as much: it is tried again within minutes."""


class Speeds(NamedTuple):
    """How fast a worker computes; 0 where it has not measured."""

    seconds_per_stream: float
    """By how much one more stream lengthens a step."""
    prefill_tokens_per_second: float


DEFAULT_SPEEDS = Speeds(0.010 / STREAMS_PER_STEP, 20_000.0)
"""Where no candidate has measured any."""


class Prepared(NamedTuple):
    """A candidate as the cost formula sees it."""

    candidate: Candidate
    """Of whom all this holds."""
    expires_at: float
    """When it holds no longer, though the candidate has not changed."""
    seconds_ahead: float
    """Prefill that is computed before the request's."""
    seconds_per_token: float
    """Prefill of one token."""
    delay_per_token: float
    """What an avoidable token costs the streams beside it."""
    wait_per_output: float
    """Wait for a place in the batch, for each token of an ordinary answer."""
    seconds_per_output: float
    """Slowdown of each output token by the streams beside it."""
    seconds_per_stream: float
    """By how much one more stream lengthens a step."""
    kv_use: float
    """Share of the KV cache in use or promised."""
    kv_per_token: float
    """Share of the KV cache that a token takes; 0: unknown."""


def prepare(candidate: Candidate, candidates: Sequence[Candidate], now: float, weights: Weights) -> Prepared:
    """Computes all that does not depend on the request."""
    per_stream, rate = _speeds(candidate, candidates, now)
    is_fresh = now - candidate.reported_at <= REPORT_LIFETIME_SECONDS
    streams, prompt_tokens, waiting, kv_use = float(candidate.streams), float(candidate.prompt_tokens), 0, 0.0
    if is_fresh:
        waiting, kv_use = candidate.reported_waiting, candidate.reported_kv_use
        streams += weights.others * candidate.other_streams
        # What they had in flight when the worker reported has been computed at its speed since.
        computed = rate * (now - candidate.reported_at)
        prompt_tokens += weights.others * max(candidate.other_prompt_tokens - computed, 0.0)
    step = per_stream * (STREAMS_PER_STEP + streams)
    cold = _coldness(now - candidate.ready_at, weights.slow_start_seconds)
    return Prepared(
        candidate,
        expires_at=_expires_at(candidate, now, is_fresh=is_fresh, is_cold=cold > 1.0),
        seconds_ahead=cold * prompt_tokens / rate,
        seconds_per_token=cold / rate,
        delay_per_token=cold * weights.recomputing * streams / rate,
        # They were put there by others; each leaves a place free once in an answer's steps.
        wait_per_output=cold * weights.slot_wait * waiting * step / candidate.max_streams,
        seconds_per_output=cold * per_stream * streams,
        seconds_per_stream=per_stream,
        kv_use=max(kv_use, candidate.kv_tokens / candidate.kv_cache_tokens) if candidate.kv_cache_tokens else 0.0,
        kv_per_token=1.0 / candidate.kv_cache_tokens if candidate.kv_cache_tokens else 0.0,
    )


def _coldness(age_seconds: float, slow_start_seconds: float) -> float:
    """By how much a fresh worker is taken to be slower: falls to 1 at the end of the slow start."""
    if age_seconds >= slow_start_seconds:
        return 1.0
    return 1.0 / (FRESH_SPEED + (1.0 - FRESH_SPEED) * max(age_seconds, 0.0) / slow_start_seconds)


def _expires_at(candidate: Candidate, now: float, *, is_fresh: bool, is_cold: bool) -> float:
    report_ends = candidate.reported_at + REPORT_LIFETIME_SECONDS if is_fresh else math.inf
    return min(report_ends, now + COLDNESS_SECONDS) if is_cold else report_ends


def _speeds(candidate: Candidate, candidates: Sequence[Candidate], now: float) -> Speeds:
    """Tells how fast a worker is: as measured, or nearer to the others' mean the longer ago that was.

    Without that, a worker that was slow once would get no request, measure nothing and stay slow for ever.
    """
    own = _measured(candidate)
    idle_seconds = now - candidate.measured_at
    if all(own) and idle_seconds <= REPORT_LIFETIME_SECONDS:
        return own
    trust = math.exp2(-idle_seconds / MEASUREMENT_HALF_LIFE_SECONDS)
    at_work = [one for one in candidates if now - one.measured_at <= REPORT_LIFETIME_SECONDS]
    columns = zip(*map(_measured, at_work or candidates), strict=True)
    means = [_mean(column) or default for column, default in zip(columns, DEFAULT_SPEEDS, strict=True)]
    return Speeds(*[mean + (value - mean) * trust if value else mean for value, mean in zip(own, means, strict=True)])


def _measured(candidate: Candidate) -> Speeds:
    # The step was measured with the streams of the report that told it.
    per_stream = candidate.step_seconds / (STREAMS_PER_STEP + candidate.reported_streams)
    return Speeds(per_stream, candidate.prefill_tokens_per_second)


def _mean(values: Sequence[float]) -> float:
    """Averages what has been measured; 0 when nothing has."""
    measured = [value for value in values if value]
    return sum(measured) / len(measured) if measured else 0.0
