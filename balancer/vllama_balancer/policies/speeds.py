"""How fast workers are taken to be: as measured, and otherwise like those that have measured lately.

What a worker measured while it had work says less and less once it has none. Without that, a worker
that was slow once would get no request, measure nothing and stay slow for ever; so it is tried again
after some minutes without work. A worker that has not measured yet is an average one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from vllama_balancer.placement.snapshot import column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_balancer.placement.snapshot import Candidate

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


DEFAULT = Speeds(0.0002, 20_000.0)
"""Where nobody has measured anything."""


def fastest(candidates: Sequence[Candidate]) -> Speeds:
    """Finds the best that any of the candidates has measured."""
    least = min(map(_STREAM_SECONDS, candidates), default=0.0)
    return Speeds(
        least or min(filter(None, map(_STREAM_SECONDS, candidates)), default=DEFAULT.stream_seconds),
        max(map(_PREFILL_RATE, candidates), default=0.0) or DEFAULT.prefill_tokens_per_second,
    )


def average(candidates: Sequence[Candidate], now: float) -> Speeds:
    """Averages what the candidates have measured lately, or else at any time."""
    lately = [one for one in candidates if now - one.measured_at <= LATELY_SECONDS] or candidates
    return Speeds(
        _mean([one.stream_seconds for one in lately]) or DEFAULT.stream_seconds,
        _mean([one.prefill_tokens_per_second for one in lately]) or DEFAULT.prefill_tokens_per_second,
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
