"""A placement with perfect information: the length of each answer and the content of every cache.

It shows what better information could gain. For each worker it computes when the request would end there, from the
engine's true queue, cache and speed and the true remaining length of every stream. It is greedy, so it is no bound: a
placement that leaves a better fleet to later requests can beat it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_benchmarks.simulate.baselines import Counting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_benchmarks.simulate.engine_model import EngineModel
    from vllama_benchmarks.simulate.placement import PlacementContext
    from vllama_benchmarks.simulate.workload import Request

BAND_SECONDS = 0.020
"""Ends this close count as equal: then the longest cached prefix wins, which helps later requests."""
PREFILL_DELAY_WEIGHT = 0.1
"""Weight of the delay that a prompt causes to each running stream; more costs TTFT, less costs makespan."""


class Oracle(Counting):
    """Picks the worker with the earliest end."""

    def __init__(self, context: PlacementContext) -> None:
        super().__init__(context)
        self._engines = context.engines
        self._now = 0.0

    def place(self, now: float, request: Request, available: Sequence[int]) -> int:
        self._now = now
        return super().place(now, request, available)

    def choose(self, request: Request, available: Sequence[int]) -> int:
        """Picks among the workers where the request ends first: the longest cached prefix, the shortest queue."""
        ends = {worker: self._end(self._engines[worker], request) for worker in available}
        limit = min(ends.values()) + BAND_SECONDS
        equal = [worker for worker, end in ends.items() if end <= limit]
        cached = {worker: self._engines[worker].cached_tokens(request.turn) for worker in equal}
        longest = max(cached.values())
        holders = [worker for worker in equal if cached[worker] == longest]
        return self.least(holders, lambda worker: self._engines[worker].model.queued_prompt_tokens)

    def _end(self, engine: EngineModel, request: Request) -> float:
        profile, turn = engine.profile, request.turn
        own = turn.output_tokens - request.delivered_tokens
        others = engine.remaining_outputs(self._now)
        uncached = turn.prompt_tokens + request.delivered_tokens - engine.cached_tokens(turn)
        queued = engine.model.queued_prompt_tokens + uncached * (1 + PREFILL_DELAY_WEIGHT * len(others))
        steps = profile.step_seconds * own + profile.step_seconds_per_stream * sum(min(own, other) for other in others)
        return (queued / profile.prefill_tokens_per_second + steps) / profile.speed
