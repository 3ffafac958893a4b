"""A placement that knows what nobody can: how long each answer will be, and what every cache holds.

It is the yardstick for what knowing more could win. For each worker it computes when the request
would end there, from the engine's true queue, true cache and true speed and the true remaining
length of every stream, and adds the time by which the request would delay those streams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.simulate.baselines import Counting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_balancer.simulate.engine_model import EngineModel
    from vllama_balancer.simulate.placement import Request, Surroundings


class Oracle(Counting):
    """Picks the least total delay, all things known."""

    def __init__(self, surroundings: Surroundings) -> None:
        super().__init__(surroundings)
        self._engines = surroundings.engines
        self._now = 0.0

    def place(self, now: float, request: Request, available: Sequence[int]) -> int:
        """Picks and counts."""
        self._now = now
        return super().place(now, request, available)

    def choose(self, request: Request, available: Sequence[int]) -> int:
        """Picks the worker where the request and those beside it lose the least time."""
        return self.least(available, lambda worker: self._delay(self._engines[worker], request))

    def _delay(self, engine: EngineModel, request: Request) -> float:
        profile, turn = engine.profile, request.turn
        own = turn.output_tokens - request.delivered_tokens
        others = engine.remaining_outputs(self._now)
        uncached = turn.prompt_tokens + request.delivered_tokens - engine.cached_tokens(turn)
        prefill = (engine.model.queued_prompt_tokens + uncached) / profile.prefill_tokens_per_second
        decode = own * profile.step_seconds
        beside = profile.step_seconds_per_stream * sum(min(own, other) for other in others)
        return (prefill + decode + beside) / profile.speed
