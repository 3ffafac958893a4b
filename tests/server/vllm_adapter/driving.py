"""Drives an engine in tests: one call that collects a generation's events."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllama_server.engine.events import Accepted, Chunk, Completed
from vllama_server.engine.requests import GenerationRequest, Sampling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vllama_server.engine.events import GenerationEvent
    from vllama_server.engine.protocol import Engine
    from vllama_server.engine.requests import Prompt, ToolCall

_numbers = itertools.count()

GREEDY = Sampling(temperature=0.0, max_tokens=24)


@dataclass
class Outcome:
    """One generation, put together."""

    accepted: Accepted | None = None
    chunks: list[Chunk] = field(default_factory=list)
    completed: Completed | None = None

    @property
    def text(self) -> str:
        """All answer text."""
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def thinking(self) -> str:
        """All reasoning text."""
        return "".join(chunk.thinking for chunk in self.chunks)

    @property
    def tool_calls(self) -> list[ToolCall]:
        """All tool calls."""
        return [call for chunk in self.chunks for call in chunk.tool_calls]

    @property
    def token_ids(self) -> list[int]:
        """All tokens."""
        return [token_id for chunk in self.chunks for token_id in chunk.token_ids]


def request_for(prompt: Prompt, sampling: Sampling = GREEDY, **fields: Any) -> GenerationRequest:
    """Makes a request with an id of its own."""
    return GenerationRequest(f"test-{next(_numbers)}", prompt, sampling, **fields)


async def run(engine: Engine, prompt: Prompt, sampling: Sampling = GREEDY, **fields: Any) -> Outcome:
    """Runs one generation to its end."""
    return await collect(engine.generate(request_for(prompt, sampling, **fields)))


async def collect(events: AsyncIterator[GenerationEvent]) -> Outcome:
    """Collects events and checks their order: Accepted, Chunks, Completed."""
    outcome = Outcome()
    async for event in events:
        assert outcome.completed is None, "nothing follows Completed"
        if isinstance(event, Accepted):
            assert outcome.accepted is None
            outcome.accepted = event
        elif isinstance(event, Chunk):
            assert outcome.accepted is not None
            outcome.chunks.append(event)
        else:
            outcome.completed = event
    assert outcome.completed is not None
    return outcome
