"""What the terms of `expected-completion` weigh: the shipped values, and the means to try others.

`vllama_benchmarks.simulate` takes one term away at a time and shows what that costs; see the table in
its README. Nothing but such comparisons has a reason to change a weight, so no flag does.
"""

from __future__ import annotations

from typing import NamedTuple

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
