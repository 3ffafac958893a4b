"""The body of /v1/responses, translated into a generation.

Stateless, as in Ollama: references to a stored conversation are ignored, and `input` holds the whole conversation. An
item is a turn or a part of one: reasoning goes to the assistant turn after it, calls to the assistant turn before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.edge.openai import responses_items
from vllama_balancer.edge.openai.chat_messages import decode_data_uri
from vllama_balancer.edge.openai.responses_items import custom_arguments
from vllama_balancer.edge.openai.sampling import SamplingFields, think_level, to_output_format, to_sampling
from vllama_balancer.edge.wire.chat import continue_unfinished
from vllama_balancer.edge.wire.tools import to_tool, to_tool_call, to_tool_choice
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOGPROBS = "message.output_text.logprobs"

_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


class Tool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool; only functions and custom tools reach the model."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def schema(self) -> dict[str, Any] | None:
        """JSON schema of the parameters for the model."""
        return responses_items.CUSTOM_TOOL_PARAMETERS if self.type == "custom" else self.parameters


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Choice of one function."""

    type: str | None = None
    name: str | None = None


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """Reasoning effort."""

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
    """Options of the answer's text."""

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
        """Names of the custom tools."""
        return frozenset(tool.name for tool in self.tools or () if tool.type == "custom" and tool.name)

    @property
    def wants_logprobs(self) -> bool:
        """Whether log probabilities are requested."""
        return _LOGPROBS in (self.include or ())


def to_generation(request: ResponsesRequest) -> generation_pb2.GenerateRequest:
    """Translates a request, except for model and id. Raises InvalidRequest that names the wrong field."""
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
        # Tools that OpenAI's servers run (web search, …) are left out: the model answers without them, which
        # clients such as Codex rely on.
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
    """Drops old turns by default, as Ollama does; an explicit "disabled" refuses instead."""
    if truncation == "disabled":
        return generation_pb2.TRUNCATION_REJECT
    return generation_pb2.TRUNCATION_DROP_OLDEST


class InputPart(msgspec.Struct, frozen=True, kw_only=True):
    """One part of an item."""

    type: str | None = None
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None


class InputItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item: a message, a call, its result, or reasoning, by `type`."""

    type: str | None = None
    role: str | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[InputPart] | None = None
    summary: list[InputPart] | None = None
    encrypted_content: str | None = None


def to_messages(instructions: str | None, items: str | Sequence[InputItem] | None) -> list[generation_pb2.Message]:
    """Returns the turns, instructions first as a system turn. Raises InvalidRequest that names the wrong item."""
    turns = _Turns()
    if instructions:
        turns.messages.append(generation_pb2.Message(role="system", content=instructions))
    if isinstance(items, str):
        turns.messages.append(generation_pb2.Message(role="user", content=items))
    else:
        for index, item in enumerate(items or ()):
            turns.add(item, f"input[{index}]")
    return turns.finish()


class _Turns:
    """The turns so far, and the reasoning of the turn to come."""

    def __init__(self) -> None:
        self.messages: list[generation_pb2.Message] = []
        self._thinking = ""
        self._called: dict[str, str] = {}

    def add(self, item: InputItem, field: str) -> None:
        # The client's examples omit the type of messages.
        match item.type or ("message" if item.role else None):
            case "message":
                self._add_message(item, field)
            case "reasoning":
                self._thinking = _reasoning_of(item, field)
            case "function_call":
                self._add_call(item, item.arguments, field)
            case "custom_tool_call":
                self._add_call(item, custom_arguments(item.input or ""), field)
            case "function_call_output" | "custom_tool_call_output":
                self._add_result(item, field)
            case None:
                raise InvalidRequest(f"{field}.type is required", field=f"{field}.type")
            case other:
                raise InvalidRequest(f"unknown input item type: '{other}' in {field}.type", field=f"{field}.type")

    def finish(self) -> list[generation_pb2.Message]:
        """Returns the turns; reasoning at the end becomes a turn of its own."""
        if self._thinking:
            self.messages.append(generation_pb2.Message(role="assistant", thinking=self._take_thinking()))
        return self.messages

    def _add_message(self, item: InputItem, field: str) -> None:
        role = (item.role or "").lower()
        if not role:
            raise InvalidRequest(f"{field}.role is required", field=f"{field}.role")
        text, images = _to_content(item.content, f"{field}.content")
        self.messages.append(
            generation_pb2.Message(
                role="system" if role == "developer" else role,
                content=text,
                images=images,
                thinking=self._take_thinking() if role == "assistant" else "",
            )
        )

    def _add_call(self, item: InputItem, arguments: str | None, field: str) -> None:
        call = to_tool_call(item.call_id, item.name, arguments, field)
        if not self.messages or self.messages[-1].role != "assistant":
            self.messages.append(generation_pb2.Message(role="assistant"))
        turn = self.messages[-1]
        turn.tool_calls.append(call)
        turn.thinking = turn.thinking or self._take_thinking()
        self._called[call.id] = call.name

    def _add_result(self, item: InputItem, field: str) -> None:
        text, images = _to_content(item.output, f"{field}.output")
        call_id = item.call_id or ""
        name = self._called.get(call_id, "")
        message = generation_pb2.Message(role="tool", content=text, images=images, tool_call_id=call_id, tool_name=name)
        self.messages.append(message)

    def _take_thinking(self) -> str:
        thinking, self._thinking = self._thinking, ""
        return thinking


def _reasoning_of(item: InputItem, field: str) -> str:
    """Returns the reasoning: its summary, or the plain text in `encrypted_content`."""
    text, _ = _to_content(item.summary, f"{field}.summary")
    if not text:
        text, _ = _to_content(item.content, f"{field}.content")
    return text or item.encrypted_content or ""


def _to_content(content: str | Sequence[InputPart] | None, field: str) -> tuple[str, list[generation_pb2.Image]]:
    if content is None or isinstance(content, str):
        return content or "", []
    texts: list[str] = []
    images: list[generation_pb2.Image] = []
    for index, part in enumerate(content):
        where = f"{field}[{index}]"
        if part.type in _TEXTS:
            texts.append(part.text or "")
        elif part.type == "refusal":
            texts.append(part.refusal or "")
        elif part.type == "input_image" and part.image_url is not None:
            images.append(decode_data_uri(part.image_url, f"{where}.image_url"))
        elif part.type in ("input_image", "input_file"):
            message = f"{where}: file inputs are not supported, send images as data URIs in image_url"
            raise InvalidRequest(message, field=where)
        else:
            raise InvalidRequest(f"unknown content type: '{part.type}' in {where}.type", field=f"{where}.type")
    return "\n".join(texts), images
