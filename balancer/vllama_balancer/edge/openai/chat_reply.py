"""Replies of /v1/chat/completions: one object, or chunks, from the events of one or more generations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from vllama_balancer.edge.openai.reply_fields import FINGERPRINT, Logprobs, Usage, to_logprobs, to_usage
from vllama_balancer.edge.wire.accumulator import check_completed
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vllama_balancer.edge.openai.reply_fields import ReplyIdentity
    from vllama_balancer.edge.wire.accumulator import Accumulator, Event


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A called function; its arguments are a JSON object in a string."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A complete call; `index` counts the calls of one choice."""

    id: str
    index: int
    type: str = "function"
    function: Function


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk adds; empty in the chunk with the finish reason."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer."""

    role: str = "assistant"
    content: str
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Additions to one choice."""

    index: int
    delta: Delta
    finish_reason: str | None
    logprobs: Logprobs | UnsetType = UNSET


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer."""

    index: int
    message: Message
    finish_reason: str
    logprobs: Logprobs | UnsetType = UNSET


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str = FINGERPRINT
    choices: list[ChunkChoice]
    usage: Usage | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """A reply that is not streamed."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    system_fingerprint: str = FINGERPRINT
    choices: list[Choice]
    usage: Usage


def to_completion(identity: ReplyIdentity, choices: Sequence[Accumulator], *, logprobs: bool) -> ChatCompletion:
    """Returns a whole reply. `logprobs`: whether they were requested."""
    return ChatCompletion(
        id=identity.id,
        created=identity.created,
        model=identity.model,
        choices=[_to_choice(identity, index, choice, logprobs) for index, choice in enumerate(choices)],
        usage=to_usage(choice.finished.usage for choice in choices),
    )


class ChunkStream:
    """Turns events into chunks; keeps a small state per choice."""

    def __init__(self, identity: ReplyIdentity, choices: int, *, logprobs: bool, include_usage: bool) -> None:
        self._identity = identity
        self._states = [_ChoiceState() for _ in range(choices)]
        self._logprobs = logprobs
        self._include_usage = include_usage

    def chunks(self, choice: int, event: Event) -> list[Chunk]:
        """Translates one event of one choice. Raises WorkerLost for an aborted generation."""
        match event:
            case generation_pb2.Delta():
                return self._delta(choice, event)
            case generation_pb2.Finished():
                return self._finish(choice, check_completed(event))
        return []

    def closing(self) -> list[Chunk]:
        """Returns the chunk of token counts that ends the stream, if requested."""
        if not self._include_usage:
            return []
        return [self._chunk([], usage=to_usage(state.usage for state in self._states))]

    def _delta(self, choice: int, delta: generation_pb2.Delta) -> list[Chunk]:
        if not (delta.text or delta.thinking or delta.tool_calls or delta.logprobs):
            return []
        state = self._states[choice]
        addition = Delta(
            role=UNSET if state.role_sent else "assistant",
            content=delta.text,
            reasoning=delta.thinking or UNSET,
            tool_calls=self._tool_calls(choice, delta) if delta.tool_calls else UNSET,
        )
        state.role_sent = True
        logprobs = Logprobs(content=to_logprobs(delta.logprobs)) if self._logprobs else UNSET
        return [self._chunk([ChunkChoice(index=choice, delta=addition, finish_reason=None, logprobs=logprobs)])]

    def _tool_calls(self, choice: int, delta: generation_pb2.Delta) -> list[ToolCall]:
        state = self._states[choice]
        calls = _to_tool_calls(self._identity, choice, delta.tool_calls, first_index=state.tool_calls)
        state.tool_calls += len(calls)
        return calls

    def _finish(self, choice: int, finished: generation_pb2.Finished) -> list[Chunk]:
        state = self._states[choice]
        state.usage = finished.usage
        chunks = []
        if not state.role_sent:
            opening = Delta(role="assistant", content="")
            chunks.append(self._chunk([ChunkChoice(index=choice, delta=opening, finish_reason=None)]))
        reason = finish_reason(finished.reason, called=state.tool_calls > 0)
        chunks.append(self._chunk([ChunkChoice(index=choice, delta=Delta(), finish_reason=reason)]))
        return chunks

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | UnsetType = UNSET) -> Chunk:
        identity = self._identity
        return Chunk(id=identity.id, created=identity.created, model=identity.model, choices=choices, usage=usage)


@dataclass(slots=True)
class _ChoiceState:
    role_sent: bool = False
    tool_calls: int = 0
    usage: generation_pb2.Usage = field(default_factory=generation_pb2.Usage)


def finish_reason(reason: generation_pb2.FinishReason, *, called: bool) -> str:
    """Returns the reason; `tool_calls` replaces `stop` only, so a truncated answer never looks complete."""
    if reason == generation_pb2.FINISH_REASON_LENGTH:
        return "length"
    return "tool_calls" if called or reason == generation_pb2.FINISH_REASON_TOOL_CALLS else "stop"


def _to_choice(identity: ReplyIdentity, index: int, accumulator: Accumulator, logprobs: bool) -> Choice:
    calls = _to_tool_calls(identity, index, accumulator.tool_calls, first_index=0)
    message = Message(
        content=accumulator.text, reasoning=accumulator.thinking or UNSET, tool_calls=calls if calls else UNSET
    )
    return Choice(
        index=index,
        message=message,
        finish_reason=finish_reason(accumulator.finished.reason, called=bool(calls)),
        logprobs=Logprobs(content=to_logprobs(accumulator.logprobs)) if logprobs else UNSET,
    )


def _to_tool_calls(
    identity: ReplyIdentity, choice: int, calls: Iterable[generation_pb2.ToolCall], *, first_index: int
) -> list[ToolCall]:
    return [
        ToolCall(
            id=call.id or identity.call_id(choice, index),
            index=index,
            function=Function(name=call.name, arguments=call.arguments_json or "{}"),
        )
        for index, call in enumerate(calls, start=first_index)
    ]
