"""Policy `expected-completion`: the worker that will probably be through with the request first.

Every candidate is scored, and everything is in seconds; only the shares V and D are tuned:

    cost = slot_wait + (P + u + V * a * (u - u*)) / R + O * (s * a + D * (e - e*)) + K * k / (1 - k)

P uncached prompt tokens in flight before their first token, u this request's uncached tokens on
that worker and u* on the worker that holds most of it, a streams, R prefill speed, O expected
output tokens, s seconds by which one more stream lengthens a step, e seconds of an empty step and
e* the fastest worker's, k projected use of the KV cache. P and a are this balancer's exact counts,
and what the worker's last report shows beyond them: that is what other balancers have put there.

Costs within a small band of the best are equal for all that can be known; among them the longest
cached prefix wins, then the fewest prompt tokens in flight, then the fewest streams, then the
fewest tokens assigned lately, then chance. Never an index and never a turn: those herd.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vllama_balancer.placement.snapshot import ASSIGNED_HALF_LIFE_SECONDS
from vllama_balancer.policies.policy import Choice, Score
from vllama_balancer.policies.prepared import STREAMS_PER_STEP, prepare
from vllama_balancer.policies.weights import HELD, PROMPTS, STREAMS, Weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from vllama_balancer.placement.snapshot import Candidate, Demand, Snapshot
    from vllama_balancer.policies.prepared import Prepared

NOTICEABLY_SLOW = 1.15
"""Steps that many times as long as the fastest worker's are no noise of the measurement."""
FULL = 0.99
"""Use of the KV cache beyond which it makes no difference; keeps the memory term finite."""
FULL_PENALTY = FULL / (1.0 - FULL)
"""The memory term of a full cache, in units of K."""
MOST_FORGOTTEN = 64
"""Workers that have left are remembered until there are so many of them."""


class ExpectedCompletion:
    """Picks the candidate with the least expected time to completion."""

    name = "expected-completion"

    def __init__(self, weights: Weights | None = None) -> None:
        """Weighs the terms as shipped, unless told otherwise."""
        self._weights = weights or Weights()
        self._prepared: dict[str, Prepared] = {}

    def pick(self, snapshot: Snapshot, demand: Demand, rng: Random) -> Choice | None:
        """Picks one of the snapshot's candidates; None only when there is none."""
        candidates = snapshot.candidates
        if len(candidates) <= 1:
            return Choice(candidates[0].name, "only-candidate") if candidates else None
        prepared = self._prepare(snapshot)
        fastest = min([one.seconds_per_stream for one in prepared])
        terms = self._terms(prepared, demand, fastest)
        costs = [slot_wait + prefill + decode + memory for slot_wait, prefill, decode, memory in terms]
        best = min(costs)
        limit = best + self._band(best, demand.output_tokens * fastest)
        equal = [candidate for candidate, cost in zip(candidates, costs, strict=True) if cost <= limit]
        if len(equal) == 1:
            return Choice(equal[0].name, "least-cost")
        return _among_equals(equal, demand, snapshot.now, rng, self._weights.ties)

    def explain(self, snapshot: Snapshot, demand: Demand) -> Sequence[Score]:
        """Computes every candidate's cost once more, term by term."""
        prepared = self._prepare(snapshot)
        fastest = min([one.seconds_per_stream for one in prepared], default=0.0)
        return [
            Score(one.candidate.name, *terms, demand.cached_tokens.get(one.candidate.name, 0))
            for one, terms in zip(prepared, self._terms(prepared, demand, fastest), strict=True)
        ]

    def _prepare(self, snapshot: Snapshot) -> list[Prepared]:
        """Prepares the candidates that have changed since the last decision, and takes the others as they were."""
        known, (now, candidates) = self._prepared, snapshot
        if len(known) > len(candidates) + MOST_FORGOTTEN:
            known.clear()
        prepared = []
        for candidate in candidates:
            name = candidate.name
            one = known.get(name)
            if one is None or one.candidate is not candidate or one.expires_at < now:
                known[name] = one = prepare(candidate, candidates, now, self._weights)
            prepared.append(one)
        return prepared

    def _terms(
        self, prepared: Sequence[Prepared], demand: Demand, fastest: float
    ) -> list[tuple[float, float, float, float]]:
        """Computes slot wait, prefill, decode and memory of each, in seconds.

        One loop over tuples that are unpacked at once: this is where a decision spends its time.
        """
        length, output, held = demand
        longest = max(held.values()) if held else 0
        noticeable, lost_per_stream = NOTICEABLY_SLOW * fastest, self._weights.slowness * output * STREAMS_PER_STEP
        memory_seconds, tokens = self._weights.memory_seconds, length + output
        terms = []
        for candidate, _, ahead, per_token, delay, wait, per_output, per_stream, use, per_kv_token in prepared:
            cached = held.get(candidate.name, 0) if held else 0
            prefill = ahead + (length - cached) * per_token + (longest - cached) * delay
            decode = output * per_output
            if per_stream > noticeable:
                decode += lost_per_stream * (per_stream - fastest)
            use += tokens * per_kv_token
            memory = memory_seconds * (use / (1.0 - use) if use < FULL else FULL_PENALTY)
            terms.append((output * wait, prefill, decode, memory))
        return terms

    def _band(self, best_seconds: float, stream_seconds: float) -> float:
        """Tells how far from the best is as good, where one stream more takes the request so much longer."""
        weights = self._weights
        return max(weights.band_seconds, weights.band_share * best_seconds, weights.band_streams * stream_seconds)


def _among_equals(equal: Sequence[Candidate], demand: Demand, now: float, rng: Random, ties: Sequence[str]) -> Choice:
    reason = "equal-cost"
    for tie in ties:
        burdens = _burdens(tie, equal, demand, now)
        least = min(burdens)
        left = [candidate for candidate, burden in zip(equal, burdens, strict=True) if burden == least]
        if tie == HELD and len(left) < len(equal):
            reason = "cached-prefix"
        if len(left) == 1:
            return Choice(left[0].name, reason)
        equal = left
    return Choice(equal[int(rng.random() * len(equal))].name, reason)


def _burdens(tie: str, equal: Sequence[Candidate], demand: Demand, now: float) -> Sequence[float]:
    """Tells by what candidates are compared; less is better."""
    if tie == HELD:
        held = demand.cached_tokens
        return [-held.get(candidate.name, 0) for candidate in equal] if held else [0] * len(equal)
    if tie == PROMPTS:
        return [candidate.prompt_tokens for candidate in equal]
    if tie == STREAMS:
        return [candidate.streams for candidate in equal]
    return [_assigned(candidate, now) for candidate in equal]


def _assigned(candidate: Candidate, now: float) -> float:
    if not candidate.assigned_tokens:
        return 0.0
    return candidate.assigned_tokens * math.exp2((candidate.assigned_at - now) / ASSIGNED_HALF_LIFE_SECONDS)
