"""One simulated engine on a made-up clock: the step model of the server's fake engine, run ahead where nothing changes.

This is the one module of the balancer that imports the server, and only the step model's pure
modules: the simulator is to measure placement on exactly the engine that tests and demos run. The
package that serves never imports it.

While a batch only decodes, every step is like the one before until a stream ends or a request
arrives. Such steps are counted instead of made, which changes nothing but the running time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, cast

from vllama_server.fake_engine.rates import Rates
from vllama_server.fake_engine.simulation_profile import SimulationProfile
from vllama_server.fake_engine.steps import StepModel, Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_benchmarks.simulate.workload import Request, Turn
    from vllama_server.fake_engine.steps import Step

IDLE = math.inf
"""When an engine without work has news."""
COLD_STEP_SECONDS = 0.7
"""What a step takes longer while kernels are compiled for it."""
SETTLED_STEPS = 50
"""After so many equal steps the engine's moving averages have settled: recording more changes nothing."""


class EngineEventKind(Enum):
    """What an engine can tell of a request."""

    STARTED = "started"
    FIRST_TOKEN = "first token"
    ENDED = "ended"


class EngineEvent(NamedTuple):
    """One thing that happened to a request."""

    kind: EngineEventKind
    request: Request
    tokens: int
    """STARTED: cached prompt tokens; ENDED: output tokens of this attempt."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a worker says of its load; the fields of the wire's WorkerReport."""

    running: int
    waiting: int
    kv_cache_use: float
    queued_prompt_tokens: int
    prefill_tokens_per_second: float
    step_seconds: float


class EngineModel:
    """An engine that runs from step to step when it is asked to."""

    def __init__(self, speed: float = 1.0) -> None:
        self.profile = SimulationProfile(speed=speed)
        self._cold_steps = 0
        self._requests: dict[Stream, Request] = {}
        self._streams: dict[Request, Stream] = {}
        self._reset()

    def _reset(self) -> None:
        self.model = StepModel(self.profile)
        self._requests.clear()
        self._streams.clear()
        self._step: Step | None = None
        self._since = 0.0
        self._repeats = 0
        self._rates = Rates()

    @property
    def next_seconds(self) -> float:
        """When there will be news; IDLE without work."""
        return self._since + self._repeats * self._step.seconds if self._step is not None else IDLE

    def submit(self, now: float, request: Request) -> None:
        """Queues a request; it can join the step that follows the one under way."""
        turn, delivered = request.turn, request.delivered_tokens
        stream = Stream(turn.prompt_tokens + delivered, _identities(turn), turn.output_tokens - delivered)
        self._requests[stream] = request
        self._streams[request] = stream
        self.model.submit(stream)
        if self._step is None:
            self._begin(now)
        elif self._repeats > 1:
            self._catch_up(now)
            self._repeats = 1

    def advance(self, now: float) -> list[EngineEvent]:
        """Ends the step that is due now, begins the next and tells what happened."""
        step = self._step
        assert step is not None
        self._run(self._repeats - 1)
        advanced = self.model.finish(step)
        self._rates.record(now, step.seconds, len(advanced), step.prefill_tokens)
        news = [EngineEvent(EngineEventKind.STARTED, self._requests[s], s.cached_tokens) for s in step.admitted]
        for stream in advanced:
            if stream.produced_tokens == 1:
                news.append(EngineEvent(EngineEventKind.FIRST_TOKEN, self._requests[stream], 0))
            if stream.finished:
                request = self._requests.pop(stream)
                del self._streams[request]
                news.append(EngineEvent(EngineEventKind.ENDED, request, stream.produced_tokens))
        self._begin(now)
        return news

    def load(self, now: float) -> LoadReport:
        """Measures the load, as for a report."""
        self._catch_up(now)
        model = self.model
        return LoadReport(
            running=model.running,
            waiting=model.waiting,
            kv_cache_use=model.kv_cache_use,
            queued_prompt_tokens=model.queued_prompt_tokens,
            prefill_tokens_per_second=self._rates.prefill_tokens_per_second,
            step_seconds=self._rates.step_seconds,
        )

    def remaining_outputs(self, now: float) -> list[int]:
        """Tells how many tokens each stream will still generate. Nobody but the oracle can know."""
        self._catch_up(now)
        return [stream.output_tokens - stream.produced_tokens for stream in self._requests]

    def cached_tokens(self, turn: Turn) -> int:
        """Tells how much of a prompt the cache holds right now. Nobody but the oracle can know."""
        blocks = min(len(turn.blocks), (turn.prompt_tokens - 1) // self.profile.block_tokens)
        return self.model._cache.match(_identities(turn)[:blocks]) * self.profile.block_tokens

    def kill(self, now: float, cold_steps: int = 0) -> dict[Request, int]:
        """Loses everything, and is slow in the first steps of its next life.

        Returns the output tokens that each request had got.
        """
        self._catch_up(now)
        delivered = {request: stream.produced_tokens for request, stream in self._streams.items()}
        self._reset()
        self._cold_steps = cold_steps
        return delivered

    def _begin(self, now: float) -> None:
        self._step = step = self.model.begin()
        self._since = now
        self._repeats = 1
        if step is not None and self._cold_steps:
            self._cold_steps -= 1
            step.seconds += COLD_STEP_SECONDS
        elif step is not None and not step.prefill:
            self._repeats = min(stream.output_tokens - stream.produced_tokens for stream in step.decoding)

    def _catch_up(self, now: float) -> None:
        """Makes the steps that are over by now; the one under way stays."""
        if self._repeats > 1 and self._step is not None:
            # A step that ends this very moment counts as under way: its news is still to come.
            over = min(math.ceil((now - self._since) / self._step.seconds - 1e-9) - 1, self._repeats - 1)
            self._run(max(0, over))

    def _run(self, steps: int) -> None:
        step = self._step
        if steps and step is not None:
            for stream in step.decoding:
                stream.produced_tokens += steps
            self._since += steps * step.seconds
            self._repeats -= steps
            for _ in range(min(steps, SETTLED_STEPS)):
                self._rates.record(self._since, step.seconds, len(step.decoding), 0)


def _identities(turn: Turn) -> Sequence[bytes]:
    """Hands block names over as the step model's identities: it only ever compares them."""
    return cast("Sequence[bytes]", turn.answered_blocks)
