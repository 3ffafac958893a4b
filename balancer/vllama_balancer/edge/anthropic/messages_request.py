"""The body of /v1/messages and its count_tokens, translated into a generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.edge.anthropic.blocks import Block, Message, system_text, to_messages
from vllama_balancer.edge.wire.bounds import clamp_int32
from vllama_balancer.edge.wire.chat import continue_unfinished
from vllama_balancer.edge.wire.json_text import json_text
from vllama_balancer.edge.wire.tools import to_tool, to_tool_choice
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODES = {"auto": "auto", "any": "required", "none": "none"}

_SWITCHES = {
    "enabled": generation_pb2.THINK_LEVEL_ON,
    "disabled": generation_pb2.THINK_LEVEL_OFF,
}

_EFFORTS = {
    "low": generation_pb2.THINK_LEVEL_LOW,
    "medium": generation_pb2.THINK_LEVEL_MEDIUM,
    "high": generation_pb2.THINK_LEVEL_HIGH,
    "xhigh": generation_pb2.THINK_LEVEL_HIGH,
    "max": generation_pb2.THINK_LEVEL_MAX,
}


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the model may call."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which tools may or must be called."""

    type: str | None = None
    name: str | None = None


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """Whether to think."""

    type: str | None = None


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """Form of the answer."""

    type: str | None = None
    schema: dict[str, Any] | None = None


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Effort and form of the answer."""

    effort: str | None = None
    format: Format | None = None


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """Metadata of the client."""

    user_id: str | None = None


class MessagesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of both endpoints; unknown fields are ignored, null counts as absent."""

    model: str | None = None
    max_tokens: int | None = None
    messages: list[Message] | None = None
    system: str | list[Block] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    metadata: Metadata | None = None
    stream: bool | None = None


def to_generation(request: MessagesRequest) -> generation_pb2.GenerateRequest:
    """Translates a request, except for model and id. Raises InvalidRequest that names the wrong field."""
    if not request.model:
        raise InvalidRequest("model is required", field="model")
    if request.max_tokens is None or request.max_tokens <= 0:
        raise InvalidRequest("max_tokens is required and must be positive", field="max_tokens")
    user = request.metadata.user_id if request.metadata is not None else None
    return generation_pb2.GenerateRequest(
        chat=to_chat(request),
        sampling=generation_pb2.Sampling(
            temperature=None if request.temperature is None else max(0.0, request.temperature),
            top_p=None if request.top_p is None else min(1.0, request.top_p),
            top_k=clamp_int32(request.top_k),
            max_tokens=clamp_int32(request.max_tokens),
            stop=[text for text in request.stop_sequences or () if text],
        ),
        output_format=_to_output_format(request),
        truncation=generation_pb2.TRUNCATION_DROP_OLDEST,
        session=user or "",
    )


def to_chat(request: MessagesRequest) -> generation_pb2.Chat:
    """Translates the conversation, its tools and think level. Raises InvalidRequest that names the wrong field."""
    if not request.messages:
        raise InvalidRequest("messages is required", field="messages")
    messages = to_messages(request.messages)
    if system := system_text(request.system):
        messages.insert(0, generation_pb2.Message(role="system", content=system))
    tools = [
        to_tool(tool.name, tool.description, tool.input_schema, f"tools[{index}]")
        for index, tool in enumerate(request.tools or ())
        # Tools of other types run on Anthropic's servers or have no schema: the model answers without them.
        if tool.type in (None, "custom")
    ]
    chat = generation_pb2.Chat(
        messages=messages,
        tools=tools,
        tool_choice=_to_tool_choice(request.tool_choice, tools),
        think=_think_level(request),
    )
    continue_unfinished(chat)
    return chat


def _to_tool_choice(
    choice: ToolChoice | None, tools: Sequence[generation_pb2.Tool]
) -> generation_pb2.ToolChoice | None:
    if choice is None:
        return None
    if choice.type == "tool":
        if not choice.name:
            raise InvalidRequest("tool_choice.name is required", field="tool_choice.name")
        return to_tool_choice(None, choice.name, tools)
    if choice.type not in _MODES:
        message = f'invalid tool_choice.type: \'{choice.type}\' (must be "auto", "any", "tool" or "none")'
        raise InvalidRequest(message, field="tool_choice.type")
    return to_tool_choice(_MODES[choice.type], None, tools)


def _think_level(request: MessagesRequest) -> generation_pb2.ThinkLevel:
    """Returns the level of `thinking`, else of the effort. Unknown words change nothing, as in Ollama."""
    switch = (request.thinking.type or "") if request.thinking is not None else ""
    if switch in _SWITCHES:
        return _SWITCHES[switch]
    effort = (request.output_config.effort or "") if request.output_config is not None else ""
    return _EFFORTS.get(effort.strip().lower(), generation_pb2.THINK_LEVEL_UNSPECIFIED)


def _to_output_format(request: MessagesRequest) -> generation_pb2.OutputFormat | None:
    wanted = request.output_format
    if request.output_config is not None and request.output_config.format is not None:
        wanted = request.output_config.format
    if wanted is None:
        return None
    if wanted.type != "json_schema" or wanted.schema is None:
        message = 'output_config.format must be {"type": "json_schema", "schema": …}'
        raise InvalidRequest(message, field="output_config.format")
    return generation_pb2.OutputFormat(json_schema=json_text(wanted.schema, "output_config.format.schema"))
