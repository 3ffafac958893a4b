"""Requests for the engines under test, and one call that collects a generation's events."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllama_protos.v1 import generation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vllama_server.engine.protocol import Engine

    Prompt = str | pb.Chat | pb.TokenIds

_numbers = itertools.count()


def greedy(max_tokens: int = 24, **options: Any) -> pb.Sampling:
    """Returns sampling options for the most likely tokens."""
    return pb.Sampling(temperature=0.0, max_tokens=max_tokens, **options)


GREEDY = greedy()


def chat_of(*turns: tuple[str, str], **fields: Any) -> pb.Chat:
    """Returns a chat of turns, each given as role and text."""
    return pb.Chat(messages=[pb.Message(role=role, content=text) for role, text in turns], **fields)


def ids_of(*token_ids: int) -> pb.TokenIds:
    """Returns a prompt of tokens."""
    return pb.TokenIds(ids=token_ids)


@dataclass
class Outcome:
    """One generation, put together."""

    started: pb.Started | None = None
    deltas: list[pb.Delta] = field(default_factory=list)
    finished: pb.Finished | None = None

    @property
    def text(self) -> str:
        """All answer text."""
        return "".join(delta.text for delta in self.deltas)

    @property
    def thinking(self) -> str:
        """All reasoning text."""
        return "".join(delta.thinking for delta in self.deltas)

    @property
    def tool_calls(self) -> list[pb.ToolCall]:
        """All tool calls."""
        return [call for delta in self.deltas for call in delta.tool_calls]

    @property
    def token_ids(self) -> list[int]:
        """All tokens."""
        return [token_id for delta in self.deltas for token_id in delta.token_ids]


def request_for(prompt: Prompt, sampling: pb.Sampling = GREEDY, **fields: Any) -> pb.GenerateRequest:
    """Returns a request with an id of its own; its first event has the rendered prompt."""
    kind = {str: "prompt", pb.Chat: "chat", pb.TokenIds: "token_ids"}[type(prompt)]
    fields |= {kind: prompt, "request_id": f"test-{next(_numbers)}", "return_prompt_token_ids": True}
    return pb.GenerateRequest(sampling=sampling, **fields)


async def run(engine: Engine, prompt: Prompt, sampling: pb.Sampling = GREEDY, **fields: Any) -> Outcome:
    """Runs one generation to its end."""
    return await collect(engine.generate(request_for(prompt, sampling, **fields)))


async def collect(events: AsyncIterator[pb.GenerateResponse]) -> Outcome:
    """Collects events and checks their order: started, deltas, finished."""
    outcome = Outcome()
    async for event in events:
        assert outcome.finished is None, "nothing follows finished"
        match event.WhichOneof("event"):
            case "started":
                assert outcome.started is None
                outcome.started = event.started
            case "delta":
                assert outcome.started is not None
                outcome.deltas.append(event.delta)
            case _:
                outcome.finished = event.finished
    assert outcome.finished is not None
    return outcome
