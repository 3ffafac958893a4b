"""The JSON of Ollama's requests and replies.

In requests every field may be null, which means absent; unknown keys are ignored. JSON that only passes through
(schemas, arguments) stays raw, which keeps its numbers and the order of its keys. In replies, keys without a value are
left out, never null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from vllama_balancer.edge.body import encode_json

if TYPE_CHECKING:
    from datetime import datetime

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
    """`tool_name` of old clients."""
    tool_call_id: str | None = None


class Function(msgspec.Struct, frozen=True):
    """Definition of a function."""

    name: str | None = None
    description: str | None = None
    parameters: msgspec.Raw = ABSENT


class Tool(msgspec.Struct, frozen=True):
    """A tool; only functions exist."""

    function: Function | None = None


class GenerationBody(msgspec.Struct, frozen=True):
    """Fields of generate and chat."""

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


class GenerateBody(GenerationBody, frozen=True):
    """POST /api/generate."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class ChatBody(GenerationBody, frozen=True):
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


class TopLogprob(msgspec.Struct, frozen=True):
    """One alternative at a position."""

    token: str
    logprob: float
    bytes: list[int]


class Logprob(msgspec.Struct, frozen=True, omit_defaults=True):
    """One generated token."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob] = []


class ReplyFunction(msgspec.Struct, frozen=True):
    """The function of a call; `arguments` is an object, keys in the model's order."""

    index: int
    name: str
    arguments: msgspec.Raw


class ReplyToolCall(msgspec.Struct, frozen=True):
    """A call."""

    id: str
    function: ReplyFunction


class AssistantMessage(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="role", tag="assistant"):
    """The answer or a piece of it; `role` and `content` are always there."""

    content: str
    thinking: str = ""
    tool_calls: list[ReplyToolCall] = []


class Reply(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A reply or a chunk: generate has `response`, chat has `message`.

    The last one alone has the fields after `logprobs`.
    """

    model: str
    """The name as it was requested."""
    created_at: datetime
    response: str | UnsetType = UNSET
    thinking: str = ""
    message: AssistantMessage | UnsetType = UNSET
    done: bool
    logprobs: list[Logprob] = []
    done_reason: str = ""
    context: list[int] | UnsetType = UNSET
    """Tokens of prompt and answer; generate only."""
    total_duration: int | UnsetType = UNSET
    """Durations are whole nanoseconds."""
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class DebugInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Result of `_debug_render_only`."""

    rendered_template: str
    image_count: int = 0


class DebugReply(msgspec.Struct, frozen=True):
    """The rendered prompt instead of an answer."""

    model: str
    created_at: datetime
    info: DebugInfo = msgspec.field(name="_debug_info")


def json_reply(value: object) -> web.Response:
    """Returns a reply of one JSON object, with a charset as Ollama's."""
    return web.Response(body=encode_json(value), content_type="application/json", charset="utf-8")
