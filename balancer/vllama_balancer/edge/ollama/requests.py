"""The bodies that Ollama's clients send.

Every field may be null, which means absent; unknown keys are ignored. JSON that only passes
through (schemas, arguments) stays raw, so that its numbers and the order of its keys survive.
"""

from __future__ import annotations

from typing import Any

import msgspec

ABSENT = msgspec.Raw(b"")


class FunctionCall(msgspec.Struct, frozen=True):
    """The function of an earlier call."""

    name: str | None = None
    arguments: msgspec.Raw = ABSENT


class ToolCall(msgspec.Struct, frozen=True):
    """An earlier call."""

    id: str | None = None
    function: FunctionCall | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn."""

    role: str | None = None
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    name: str | None = None
    """What old clients call `tool_name`."""
    tool_call_id: str | None = None


class Function(msgspec.Struct, frozen=True):
    """A function that may be called."""

    name: str | None = None
    description: str | None = None
    parameters: msgspec.Raw = ABSENT


class Tool(msgspec.Struct, frozen=True):
    """A tool; only functions exist."""

    function: Function | None = None


class Shared(msgspec.Struct, frozen=True):
    """What generate and chat have in common."""

    model: str | None = None
    stream: bool | None = None
    format: msgspec.Raw = ABSENT
    options: dict[str, Any] | None = None
    keep_alive: Any = None
    think: Any = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    debug_render_only: bool | None = msgspec.field(default=None, name="_debug_render_only")

    @property
    def streams(self) -> bool:
        """Whether the reply is streamed: only an explicit false turns it off."""
        return self.stream is not False


class GenerateBody(Shared, frozen=True):
    """POST /api/generate."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class ChatBody(Shared, frozen=True):
    """POST /api/chat."""

    messages: list[Message] | None = None
    tools: list[Tool] | None = None


class ShowBody(msgspec.Struct, frozen=True):
    """POST /api/show."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None
    system: str | None = None
    options: dict[str, Any] | None = None
