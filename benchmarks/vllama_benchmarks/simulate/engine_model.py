"""One simulated engine on a virtual clock: the step model of the worker's fake engine, run ahead where nothing changes.

The simulator measures placement on exactly the engine that tests and demos run; of the server it imports the pure
step model only.

While a batch only decodes, every step is like the one before until a stream ends or a request arrives. Such steps are
counted instead of run, which changes nothing but the running time.
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
"""Time of the next event of an engine without work."""
COLD_STEP_SECONDS = 0.7
"""Extra time of a step while kernels are compiled for it."""
SETTLED_STEPS = 50
"""Equal steps after which the engine's moving averages no longer change."""


class EngineEventKind(Enum):
    """What can happen to a request."""

    STARTED = "started"
    FIRST_TOKEN = "first token"
    ENDED = "ended"


class EngineEvent(NamedTuple):
    """One event of a request."""

    kind: EngineEventKind
    request: Request
    tokens: int
    """STARTED: cached prompt tokens; ENDED: output tokens of this attempt."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The load of a worker: fields of the wire's WorkerReport."""

    running: int
    waiting: int
    kv_cache_use: float
    queued_prompt_tokens: int
    prefill_tokens_per_second: float
    step_seconds: float


class EngineModel:
    """An engine that `advance` runs from step to step."""

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
        """Time of the next event; IDLE without work."""
        return self._since + self._repeats * self._step.seconds if self._step is not None else IDLE

    def submit(self, now: float, request: Request) -> None:
        """Queues a request; it can join the step after the running one."""
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
        """Ends the step that is due now, begins the next and returns the events."""
        step = self._step
        assert step is not None
        self._run(self._repeats - 1)
        advanced = self.model.finish(step)
        self._rates.record(now, step.seconds, len(advanced), step.prefill_tokens)
        events = [EngineEvent(EngineEventKind.STARTED, self._requests[s], s.cached_tokens) for s in step.admitted]
        for stream in advanced:
            if stream.produced_tokens == 1:
                events.append(EngineEvent(EngineEventKind.FIRST_TOKEN, self._requests[stream], 0))
            if stream.finished:
                request = self._requests.pop(stream)
                del self._streams[request]
                events.append(EngineEvent(EngineEventKind.ENDED, request, stream.produced_tokens))
        self._begin(now)
        return events

    def load(self, now: float) -> LoadReport:
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
        """Returns how many tokens each stream will still generate; for the oracle only."""
        self._catch_up(now)
        return [stream.output_tokens - stream.produced_tokens for stream in self._requests]

    def cached_tokens(self, turn: Turn) -> int:
        """Returns how much of a prompt the cache holds right now; for the oracle only."""
        blocks = min(len(turn.blocks), (turn.prompt_tokens - 1) // self.profile.block_tokens)
        return self.model._cache.match(_identities(turn)[:blocks]) * self.profile.block_tokens

    def kill(self, now: float, cold_steps: int = 0) -> dict[Request, int]:
        """Drops all state and returns the output tokens that each request had got; the next `cold_steps` are slow."""
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
        """Runs the steps that are over by now; the current one stays."""
        if self._repeats > 1 and self._step is not None:
            # A step that ends this very moment is still running: its events are still to come.
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
    """Returns block names as the step model's identities, which it only compares."""
    return cast("Sequence[bytes]", turn.answered_blocks)
