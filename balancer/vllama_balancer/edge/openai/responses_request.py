"""Requests of /v1/responses: decoded shape, and their translation to a generation.

Stateless: what refers to a stored conversation is ignored, as in Ollama, and the whole
conversation is in `input`. An item there is one turn or a piece of one: reasoning goes to the
assistant turn that follows it, calls to the assistant turn before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.edge.openai import custom_tools
from vllama_balancer.edge.openai.effort import think_level
from vllama_balancer.edge.openai.formats import to_output_format
from vllama_balancer.edge.openai.responses_input import InputItem, to_messages
from vllama_balancer.edge.openai.sampling import SamplingFields, to_sampling
from vllama_balancer.edge.wire.chat import continue_unfinished
from vllama_balancer.edge.wire.tools import to_tool, to_tool_choice
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOGPROBS = "message.output_text.logprobs"


class Tool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that the model may call; only functions reach it."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def schema(self) -> dict[str, Any] | None:
        """Parameters under which the model is offered the tool."""
        return custom_tools.PARAMETERS if self.type == "custom" else self.parameters


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Choice of one function."""

    type: str | None = None
    name: str | None = None


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """How hard to think."""

    effort: str | None = None
    summary: str | None = None


class TextFormat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Form of the answer."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the text of the answer is like."""

    format: TextFormat | None = None


class ResponsesRequest(SamplingFields, frozen=True, kw_only=True):
    """Body of /v1/responses; unknown fields are ignored, null counts as absent."""

    model: str | None = None
    input: str | list[InputItem] | None = None
    instructions: str | None = None
    tools: list[Tool] | None = None
    tool_choice: str | ToolChoice | None = None
    max_output_tokens: int | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    truncation: str | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    stream: bool | None = None
    metadata: dict[str, str | float | bool | None] | None = None
    user: str | None = None
    prompt_cache_key: str | None = None

    @property
    def custom_tools(self) -> frozenset[str]:
        """Names of the tools that take free text."""
        return frozenset(tool.name for tool in self.tools or () if tool.type == "custom" and tool.name)

    @property
    def wants_logprobs(self) -> bool:
        """Whether log probabilities were asked for."""
        return _LOGPROBS in (self.include or ())


def to_generation(request: ResponsesRequest) -> generation_pb2.GenerateRequest:
    """Translates a request, model and identity aside. Raises InvalidRequest that names the wrong field."""
    top_logprobs = request.top_logprobs or 0
    if not 0 <= top_logprobs <= 20:
        raise InvalidRequest("top_logprobs must be between 0 and 20", field="top_logprobs")
    return generation_pb2.GenerateRequest(
        chat=_to_chat(request),
        sampling=to_sampling(request, request.max_output_tokens),
        output_format=_to_output_format(request.text),
        logprobs=request.wants_logprobs,
        top_logprobs=top_logprobs if request.wants_logprobs else 0,
        truncation=_to_truncation(request.truncation),
        session=request.prompt_cache_key or request.user or "",
    )


def _to_chat(request: ResponsesRequest) -> generation_pb2.Chat:
    messages = to_messages(request.instructions, request.input)
    if not messages:
        raise InvalidRequest("input is required", field="input")
    tools = [
        to_tool(tool.name, tool.description, tool.schema, f"tools[{index}]")
        for index, tool in enumerate(request.tools or ())
        # Tools that OpenAI's servers run themselves (web search, …) do not exist here: not offering
        # them leaves the model to answer without, which clients such as Codex count on.
        if tool.type in (None, "function", "custom")
    ]
    effort = request.reasoning.effort if request.reasoning is not None else None
    chat = generation_pb2.Chat(
        messages=messages,
        tools=tools,
        tool_choice=_to_tool_choice(request.tool_choice, tools),
        think=think_level(effort, "reasoning.effort"),
    )
    continue_unfinished(chat)
    return chat


def _to_tool_choice(
    choice: str | ToolChoice | None, tools: Sequence[generation_pb2.Tool]
) -> generation_pb2.ToolChoice | None:
    if not isinstance(choice, ToolChoice):
        return to_tool_choice(choice, None, tools)
    if choice.type not in ("function", "custom") or choice.name is None:
        message = 'tool_choice must be "auto", "none", "required" or {"type": "function", "name": …}'
        raise InvalidRequest(message, field="tool_choice")
    return to_tool_choice(None, choice.name, tools)


def _to_output_format(text: TextConfig | None) -> generation_pb2.OutputFormat | None:
    if text is None or text.format is None:
        return None
    return to_output_format(text.format.type, text.format.schema, "text.format")


def _to_truncation(truncation: str | None) -> generation_pb2.Truncation:
    """Ollama drops old turns unless told not to; so does this, but an explicit "disabled" is obeyed."""
    if truncation == "disabled":
        return generation_pb2.TRUNCATION_REJECT
    return generation_pb2.TRUNCATION_DROP_OLDEST
