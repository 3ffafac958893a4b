"""What Ollama's clients are sent. Keys without a value are left out, never null."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from vllama_balancer.edge.body import encode_json

if TYPE_CHECKING:
    from datetime import datetime


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


class CalledFunction(msgspec.Struct, frozen=True):
    """A function that the model calls; `arguments` is an object, keys in the model's order."""

    index: int
    name: str
    arguments: msgspec.Raw


class Called(msgspec.Struct, frozen=True):
    """A call."""

    id: str
    function: CalledFunction


class AssistantMessage(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="role", tag="assistant"):
    """The answer or a piece of it; `role` and `content` are always there."""

    content: str
    thinking: str = ""
    tool_calls: list[Called] = []


class Reply(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A reply or a chunk: `response` is what generate says, `message` what chat says.

    The fields after `logprobs` are only on the last one.
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
    """What `_debug_render_only` asks for."""

    rendered_template: str
    image_count: int = 0


class DebugReply(msgspec.Struct, frozen=True):
    """The rendered prompt instead of an answer."""

    model: str
    created_at: datetime
    info: DebugInfo = msgspec.field(name="_debug_info")


def json_reply(value: object) -> web.Response:
    """Answers with one JSON object."""
    return web.Response(body=encode_json(value), content_type="application/json", charset="utf-8")
