"""The body of /v1/chat/completions, translated into a generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.edge.body import decode_json
from vllama_balancer.edge.openai.chat_messages import Message, to_messages
from vllama_balancer.edge.openai.sampling import SamplingFields, think_level, to_output_format, to_sampling
from vllama_balancer.edge.wire.chat import continue_unfinished
from vllama_balancer.edge.wire.json_text import check_levels
from vllama_balancer.edge.wire.tools import to_tool, to_tool_choice
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

TOP_LOGPROBS_MAX = 20
MOST_SWITCH_BYTES = 16 * 1024
"""A Struct of the protos takes some 3 microseconds for each value."""


class Function(msgspec.Struct, frozen=True):
    """Definition of a function."""

    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool that the model may call."""

    type: str | None = None
    function: Function | None = None


class NamedFunction(msgspec.Struct, frozen=True):
    """The one function that must be called."""

    name: str | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """Choice of one function."""

    type: str | None = None
    function: NamedFunction | None = None


class JsonSchema(msgspec.Struct, frozen=True):
    """Schema of the answer."""

    schema: dict[str, Any] | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """Form of the answer."""

    type: str | None = None
    json_schema: JsonSchema | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    """Options of a stream."""

    include_usage: bool | None = None


class Reasoning(msgspec.Struct, frozen=True):
    """Reasoning effort."""

    effort: str | None = None


class ChatRequest(SamplingFields, frozen=True, kw_only=True):
    """Body of /v1/chat/completions; unknown fields are ignored, null counts as absent."""

    model: str | None = None
    messages: list[Message] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: str | ToolChoice | None = None
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    n: int | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    chat_template_kwargs: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage is True


def to_generation(request: ChatRequest) -> generation_pb2.GenerateRequest:
    """Translates a request, except for model and id. Raises InvalidRequest that names the wrong field."""
    if not request.messages:
        raise InvalidRequest("[] is too short - 'messages'", field="messages")
    _check_top_logprobs(request.top_logprobs)
    limit = request.max_completion_tokens
    return generation_pb2.GenerateRequest(
        chat=_to_chat(request, request.messages),
        sampling=to_sampling(request, request.max_tokens if limit is None else limit),
        output_format=_to_output_format(request.response_format),
        logprobs=request.logprobs is True,
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else 0,
        truncation=generation_pb2.TRUNCATION_DROP_OLDEST,
        session=request.prompt_cache_key or request.user or "",
    )


def _check_top_logprobs(top_logprobs: int | None) -> None:
    if top_logprobs is not None and not 0 <= top_logprobs <= TOP_LOGPROBS_MAX:
        raise InvalidRequest("top_logprobs must be between 0 and 20", field="top_logprobs")


def _to_chat(request: ChatRequest, messages: Sequence[Message]) -> generation_pb2.Chat:
    tools = [_to_tool(tool, f"tools[{index}]") for index, tool in enumerate(request.tools or ())]
    chat = generation_pb2.Chat(
        messages=to_messages(messages),
        tools=tools,
        tool_choice=_to_tool_choice(request.tool_choice, tools),
        think=_think_level(request),
    )
    continue_unfinished(chat)
    switches = bytes(request.chat_template_kwargs)
    if switches != b"null":
        _set_switches(chat, switches)
    return chat


def _set_switches(chat: generation_pb2.Chat, raw: bytes) -> None:
    if len(raw) > MOST_SWITCH_BYTES:
        message = f"chat_template_kwargs has {len(raw)} bytes and may have {MOST_SWITCH_BYTES}; shorten it"
        raise InvalidRequest(message, field="chat_template_kwargs")
    try:
        switches = decode_json(raw, dict[str, Any])
    except InvalidRequest as error:
        raise InvalidRequest(f"chat_template_kwargs: {error}", field="chat_template_kwargs") from error
    # A protobuf Struct has three levels of messages for each level of JSON, and parsers stop at 100.
    check_levels(switches, 16, "chat_template_kwargs")
    try:
        chat.template_switches.update(switches)
    except OverflowError as error:
        message = "chat_template_kwargs holds a number that is too large"
        raise InvalidRequest(message, field="chat_template_kwargs") from error


def _think_level(request: ChatRequest) -> generation_pb2.ThinkLevel:
    if request.reasoning is not None and request.reasoning.effort:
        return think_level(request.reasoning.effort, "reasoning.effort")
    return think_level(request.reasoning_effort, "reasoning_effort")


def _to_output_format(response_format: ResponseFormat | None) -> generation_pb2.OutputFormat | None:
    if response_format is None:
        return None
    wrapper = response_format.json_schema
    schema = None if wrapper is None else wrapper.schema
    return to_output_format(response_format.type, schema, "response_format")


def _to_tool(tool: Tool, field: str) -> generation_pb2.Tool:
    if tool.type not in (None, "function"):
        raise InvalidRequest(f"{field}.type must be \"function\", not '{tool.type}'", field=f"{field}.type")
    function = tool.function or Function()
    return to_tool(function.name, function.description, function.parameters, f"{field}.function")


def _to_tool_choice(
    choice: str | ToolChoice | None, tools: Sequence[generation_pb2.Tool]
) -> generation_pb2.ToolChoice | None:
    if not isinstance(choice, ToolChoice):
        return to_tool_choice(choice, None, tools)
    if choice.function is None or choice.function.name is None:
        raise InvalidRequest("tool_choice.function.name is required", field="tool_choice.function.name")
    return to_tool_choice(None, choice.function.name, tools)
