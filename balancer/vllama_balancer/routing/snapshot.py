"""A policy's input: an immutable snapshot of the workers that may take a request, and the request's demand.

Named tuples rather than frozen dataclasses: sixteen of them are built for a decision that may take fifty microseconds,
and a frozen dataclass costs several times as much to make.
"""

from __future__ import annotations

import math
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STREAMS_PER_STEP = 50.0
"""Streams that double the time of an empty step; turns a measured step into seconds per stream."""
REPORT_LIFETIME_SECONDS = 2.0
"""An older report does not count: otherwise a worker whose reports stopped would look idle for ever."""
ASSIGNED_HALF_LIFE_SECONDS = 2.0
"""After this time, a recently assigned token counts half."""


class Candidate(NamedTuple):
    """One worker that has room for the request."""

    name: str
    """Unique in the fleet."""
    streams: int
    """Leases of this balancer, exact."""
    max_streams: int
    """Streams that the worker serves at once."""
    prompt_tokens: int = 0
    """Uncached prompt tokens of leases that still wait for their first token."""
    kv_reserved: float = 0.0
    """Share of the KV cache that leases have reserved: prompts and expected outputs."""
    kv_per_token: float = 0.0
    """Share of the KV cache that a token takes; 0: unknown."""
    assigned_until: float = -math.inf
    """When the uncached tokens assigned to it will have decayed to one: the later, the more they are."""
    other_streams: int = 0
    """Streams of other balancers: the excess of the last report over this balancer's own."""
    other_prompt_tokens: int = 0
    """Prompt tokens of those streams that were not computed at the time of the report."""
    reported_kv_use: float = 0.0
    """Share of the KV cache in use, by the last report."""
    reported_at: float = -math.inf
    """When the last report came."""
    prefill_tokens_per_second: float = 0.0
    """Measured prefill speed; 0: not measured."""
    stream_seconds: float = 0.0
    """By how much one more stream lengthens a decode step, as measured; 0: not measured."""
    measured_at: float = -math.inf
    """When it last worked, which is when its speeds were measured."""
    ready_at: float = -math.inf
    """When this incarnation of the worker became ready."""


def column(field: str) -> Callable[[Candidate], float]:
    """Returns a reader of one field, faster than attribute access when all candidates are read in a row."""
    return itemgetter(Candidate._fields.index(field))


class Snapshot(NamedTuple):
    """The candidates at one moment. Their order means nothing."""

    now: float
    """The moment, in seconds of the balancer's monotonic clock."""
    candidates: tuple[Candidate, ...]
    """Every worker that may take the request."""


class Demand(NamedTuple):
    """The expected cost of a request."""

    prompt_tokens: int
    """Tokens of the input, tokens to resume after included."""
    output_tokens: int
    """Expected tokens of the output."""
    cached_tokens: Mapping[str, int]
    """Tokens of the input that the prefix index expects in a worker's cache, by worker; absent: none."""
