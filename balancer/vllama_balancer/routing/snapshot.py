"""What a policy sees: an immutable picture of the workers that may take a request, and the request.

Named tuples rather than frozen dataclasses: sixteen of them are built for a decision that may
take fifty microseconds, and a frozen dataclass costs several times as much to make.
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
"""An older report says nothing of now: a worker whose reports stopped would look idle for ever."""

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
    """Share of the KV cache that is promised to leases: prompts and expected outputs."""
    kv_per_token: float = 0.0
    """Share of the KV cache that a token takes; 0: unknown."""
    assigned_until: float = -math.inf
    """When the uncached tokens assigned to it will have decayed to one: at any time, the later the more they are."""
    other_streams: int = 0
    """Streams that others have put there: what the last report shows beyond this balancer's own."""
    other_prompt_tokens: int = 0
    """Prompt tokens that these had not computed when the report was made."""
    reported_kv_use: float = 0.0
    """Share of the KV cache in use, by the last report."""
    reported_at: float = -math.inf
    """When the last report came."""
    prefill_tokens_per_second: float = 0.0
    """Measured prefill speed; 0: not measured."""
    stream_seconds: float = 0.0
    """By how much one more stream lengthens a decode step, as measured; 0: not measured."""
    measured_at: float = -math.inf
    """When it was last seen at work, which is when its speeds were measured."""
    ready_at: float = -math.inf
    """When this life of the worker became ready."""


def column(field: str) -> Callable[[Candidate], float]:
    """Makes what reads one number of a candidate: quicker than an attribute, where all candidates are read in a row."""
    return itemgetter(Candidate._fields.index(field))


class Snapshot(NamedTuple):
    """The candidates at one moment. Their order means nothing."""

    now: float
    """The moment, in seconds of the balancer's monotonic clock."""
    candidates: tuple[Candidate, ...]
    """Every worker that may take the request."""


class Demand(NamedTuple):
    """What a request will cost, as far as that can be told beforehand."""

    prompt_tokens: int
    """Tokens of the input, tokens to resume after included."""
    output_tokens: int
    """Tokens that it will probably generate."""
    cached_tokens: Mapping[str, int]
    """Tokens of the input that a worker's prefix cache is believed to hold, by worker; absent: none."""
