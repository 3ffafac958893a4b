"""The events of a generation, and their accumulation for replies that are not streamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from vllama_balancer.errors import EngineFault, WorkerLost
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

Event: TypeAlias = generation_pb2.Started | generation_pb2.Delta | generation_pb2.Finished
"""What a GenerateResponse carries: its kind is read once, in `event_of`, and is the class from there on."""


def event_of(response: generation_pb2.GenerateResponse) -> Event | None:
    """Returns the event of a response; None for a kind that this version does not have."""
    kind = response.WhichOneof("event")
    return getattr(response, kind) if kind else None


class Accumulator:
    """The output of one generation so far."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._thinking: list[str] = []
        self._finished: generation_pb2.Finished | None = None
        self.started = generation_pb2.Started()
        """The first event."""
        self.tool_calls: list[generation_pb2.ToolCall] = []
        """Complete calls, in order."""
        self.logprobs: list[generation_pb2.TokenLogprobs] = []
        """One entry for each token, when requested."""

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(self._texts)

    @property
    def thinking(self) -> str:
        """The reasoning before it."""
        return "".join(self._thinking)

    @property
    def finished(self) -> generation_pb2.Finished:
        """The last event. Raises EngineFault while there is none."""
        if self._finished is None:
            raise EngineFault("the generation stopped without saying how it ended")
        return self._finished

    def add(self, event: Event) -> None:
        """Adds the next event. Raises WorkerLost for an aborted generation."""
        match event:
            case generation_pb2.Delta():
                self._add_delta(event)
            case generation_pb2.Started():
                self.started = event
            case generation_pb2.Finished():
                self._finished = check_completed(event)

    def _add_delta(self, delta: generation_pb2.Delta) -> None:
        if delta.text:
            self._texts.append(delta.text)
        if delta.thinking:
            self._thinking.append(delta.thinking)
        self.tool_calls.extend(delta.tool_calls)
        self.logprobs.extend(delta.logprobs)


async def collect(events: AsyncIterable[Event]) -> Accumulator:
    """Accumulates a generation to its end. Raises what the generation raises, EngineFault or WorkerLost."""
    accumulator = Accumulator()
    async for event in events:
        accumulator.add(event)
    _ = accumulator.finished
    return accumulator


def check_completed(finished: generation_pb2.Finished) -> generation_pb2.Finished:
    """Returns the event. Raises WorkerLost for an aborted generation."""
    if finished.reason == generation_pb2.FINISH_REASON_ABORTED:
        raise WorkerLost("the worker went away before the generation was complete")
    return finished
