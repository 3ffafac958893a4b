"""A whole generation, gathered from its events, for replies that are not streamed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.errors import EngineFault, WorkerLost
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterable


class Accumulator:
    """Everything that one generation has said so far."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._finished: generation_pb2.Finished | None = None
        self.started = generation_pb2.Started()
        """What the engine said when it took the request."""
        self.tool_calls: list[generation_pb2.ToolCall] = []
        """Complete calls, in order."""
        self.logprobs: list[generation_pb2.TokenLogprobs] = []
        """One entry for each token, when asked for."""

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(self._texts)

    @property
    def thinking(self) -> str:
        """The reasoning before it."""
        return "".join(self._thoughts)

    @property
    def finished(self) -> generation_pb2.Finished:
        """How it ended. Raises EngineFault while no end has come."""
        if self._finished is None:
            raise EngineFault("the generation stopped without saying how it ended")
        return self._finished

    def add(self, event: generation_pb2.GenerateResponse) -> None:
        """Takes the next event. Raises WorkerLost when it says that a worker gave the generation up."""
        match event.WhichOneof("event"):
            case "started":
                self.started = event.started
            case "delta":
                self._add_delta(event.delta)
            case "finished":
                self._finished = check_completed(event.finished)

    def _add_delta(self, delta: generation_pb2.Delta) -> None:
        if delta.text:
            self._texts.append(delta.text)
        if delta.thinking:
            self._thoughts.append(delta.thinking)
        self.tool_calls.extend(delta.tool_calls)
        self.logprobs.extend(delta.logprobs)


async def collect(events: AsyncIterable[generation_pb2.GenerateResponse]) -> Accumulator:
    """Gathers a generation to its end. Raises what the generation raises, EngineFault or WorkerLost."""
    collected = Accumulator()
    async for event in events:
        collected.add(event)
    _ = collected.finished
    return collected


def check_completed(finished: generation_pb2.Finished) -> generation_pb2.Finished:
    """Passes an end on unless it is no completion: raises WorkerLost for an aborted generation."""
    if finished.reason == generation_pb2.FINISH_REASON_ABORTED:
        raise WorkerLost("the worker went away before the generation was complete")
    return finished
