"""Budgets of a request: how many bytes, items and levels of nesting one request may have.

Both front doors of the balancer check them before a request is copied or queued, and every worker checks them again.
The functions are total: for any message they return or raise OverBudget. Protobuf counts the bytes itself, so that a
large prompt is not copied.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vllama_protos.v1 import embedding_pb2

KIB = 1 << 10
MIB = 1 << 20


class OverBudget(ValueError):
    """A request exceeds a budget; `str()` is a sentence for the client."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field
        """The field of the proto that is too large; "n" for too many choices."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The most that one request may have of each thing."""

    text_bytes: int = 8 * MIB
    """Bytes of the request without its pictures."""
    choices_bytes: int = 32 * MIB
    """Bytes of the request, pictures included, times the number of its choices."""
    turns: int = 10_000
    """Messages of a chat."""
    token_ids: int = 2_097_152
    """Token ids in one field."""
    name_bytes: int = 1_024
    """Bytes of a model's name, and of a session."""
    tools: int = 1_024
    """Tools of a chat."""
    tool_bytes: int = 2 * MIB
    """Bytes of all tools of a chat: they are text of the prompt unless `tool_choice` forces a call."""
    compiled_bytes: int = 128 * KIB
    """Bytes of what the engine compiles: a schema, regex, grammar, choices, and tools that `tool_choice` forces."""
    compiled_values: int = 1_000
    """Values of all enums in a schema, or choices."""
    switch_bytes: int = 128 * KIB
    """Bytes of the extra variables for the chat template: a Struct takes microseconds for each of its values."""
    json_levels: int = 100
    """Arrays and objects within one another in a JSON text."""
    json_marks: int = 300_000
    """Opening brackets and quotes in all JSON texts of a request: they are what makes JSON slow to parse."""
    grammar_levels: int = 500
    """Brackets within one another in a regex or grammar."""
    embedding_inputs: int = 2_048
    """Inputs of one embedding call: with 4,096 numbers for each, the reply has half of the bytes of a message."""


DEFAULT_LIMITS = RequestLimits()


def check_generation(
    request: generation_pb2.GenerateRequest, limits: RequestLimits = DEFAULT_LIMITS, *, choices: int = 1
) -> None:
    """Raises OverBudget. `choices`: how many generations the request stands for."""
    _check_name(request.model, limits, "model")
    _check_name(request.session, limits, "session")
    for ids, field in (
        (request.token_ids.ids, "token_ids"),
        (request.context_token_ids, "context_token_ids"),
        (request.resume_token_ids, "resume_token_ids"),
    ):
        _check_count(len(ids), limits.token_ids, "ids", field)
    _check_input(request, limits, choices)
    if request.HasField("output_format"):
        _check_output_format(request.output_format, limits)


def check_tokenization(request: generation_pb2.TokenizeRequest, limits: RequestLimits = DEFAULT_LIMITS) -> None:
    """Raises OverBudget."""
    _check_name(request.model, limits, "model")
    _check_input(request, limits, choices=1)


def check_detokenization(request: generation_pb2.DetokenizeRequest, limits: RequestLimits = DEFAULT_LIMITS) -> None:
    """Raises OverBudget."""
    _check_name(request.model, limits, "model")
    _check_count(len(request.token_ids), limits.token_ids, "ids", "token_ids")


def check_embedding(request: embedding_pb2.EmbedRequest, limits: RequestLimits = DEFAULT_LIMITS) -> None:
    """Raises OverBudget."""
    _check_name(request.model, limits, "model")
    _check_count(len(request.inputs), limits.embedding_inputs, "inputs", "inputs")
    _check_bytes(request.ByteSize(), limits.text_bytes, "inputs")


def _check_input(
    request: generation_pb2.GenerateRequest | generation_pb2.TokenizeRequest, limits: RequestLimits, choices: int
) -> None:
    size, field = request.ByteSize(), request.WhichOneof("input") or "input"
    _check_count(len(request.chat.messages), limits.turns, "messages", "chat.messages")
    _check_count(len(request.chat.tools), limits.tools, "tools", "chat.tools")
    if size > limits.text_bytes:
        pictures = sum(image.ByteSize() for message in request.chat.messages for image in message.images)
        _check_bytes(size - pictures, limits.text_bytes, field)
    if size * choices > limits.choices_bytes:
        _check_bytes(size, limits.choices_bytes, field)
        most = limits.choices_bytes // size
        raise OverBudget(f"{choices} choices of a request of {size} bytes; ask for {most} at most.", "n")
    _check_bytes(request.chat.template_switches.ByteSize(), limits.switch_bytes, "chat.template_switches")
    _check_tools(request.chat, limits)
    _check_json(_json_texts(request.chat), limits)


def _check_tools(chat: generation_pb2.Chat, limits: RequestLimits) -> None:
    _check_bytes(sum(tool.ByteSize() for tool in chat.tools), limits.tool_bytes, "chat.tools")
    forced = [tool for tool in chat.tools if _is_forced(tool, chat.tool_choice)]
    remedy = "send fewer or leave tool_choice unset"
    _check_bytes(sum(tool.ByteSize() for tool in forced), limits.compiled_bytes, "chat.tools", remedy)
    values = sum(_enum_values(tool.parameters_json) for tool in forced)
    _check_count(values, limits.compiled_values, "enum values", "chat.tools", remedy)


def _is_forced(tool: generation_pb2.Tool, choice: generation_pb2.ToolChoice) -> bool:
    """True if a call must be made, and may be of this tool: then its parameters are compiled."""
    if choice.mode == generation_pb2.TOOL_CHOICE_MODE_NAMED:
        return tool.name == choice.name
    return choice.mode == generation_pb2.TOOL_CHOICE_MODE_REQUIRED


def _check_output_format(message: generation_pb2.OutputFormat, limits: RequestLimits) -> None:
    kind = message.WhichOneof("kind") or "kind"
    field = f"output_format.{kind}"
    _check_bytes(message.ByteSize(), limits.compiled_bytes, field)
    if kind == "choice":
        _check_count(len(message.choice.options), limits.compiled_values, "options", field)
    elif kind == "json_schema":
        _check_json([(field, message.json_schema)], limits)
        _check_count(_enum_values(message.json_schema), limits.compiled_values, "enum values", field)
    elif kind in ("regex", "grammar"):
        levels = _depth(_without(_NO_BRACKETS, getattr(message, kind)))
        _check_count(levels, limits.grammar_levels, "brackets within one another", field)


def _json_texts(chat: generation_pb2.Chat) -> Iterator[tuple[str, str]]:
    """Yields the fields of a chat that hold JSON, and their texts."""
    for index, tool in enumerate(chat.tools):
        yield f"chat.tools[{index}].parameters_json", tool.parameters_json
    for index, message in enumerate(chat.messages):
        for number, call in enumerate(message.tool_calls):
            yield f"chat.messages[{index}].tool_calls[{number}].arguments_json", call.arguments_json


def _check_json(texts: Iterable[tuple[str, str]], limits: RequestLimits) -> None:
    """Raises OverBudget for JSON texts that have too many parts together, or one that is nested too deeply."""
    marks = 0
    for field, text in texts:
        opening = text.count("[") + text.count("{")
        marks += opening + text.count('"')
        _check_count(marks, limits.json_marks, "brackets and quotes", field)
        if opening > limits.json_levels:
            levels = _depth(_without(_NO_CONTAINERS, _without(_STRING, text)))
            _check_count(levels, limits.json_levels, "levels of nesting", field)


_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NO_CONTAINERS = re.compile(r"[^\[\]{}]+")
_NO_BRACKETS = re.compile(r"[^()\[\]{}]+")
_STEPS = {**dict.fromkeys("([{", 1), **dict.fromkeys(")]}", -1)}


def _without(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub("", text)


def _depth(brackets: str) -> int:
    """Returns the most brackets within one another; they need not match."""
    return max(itertools.accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _enum_values(schema: str) -> int:
    """Returns the number of values in all enums of a schema; 0 for a text that is no JSON."""
    try:
        pending: list[Any] = [json.loads(schema)]
    except (ValueError, RecursionError):
        return 0
    count = 0
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            enum = value.get("enum")
            count += len(enum) if isinstance(enum, list) else 0
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return count


def _check_name(name: str, limits: RequestLimits, field: str) -> None:
    _check_bytes(len(name.encode()), limits.name_bytes, field)


def _check_bytes(size: int, most: int, field: str, remedy: str = "shorten it") -> None:
    if size > most:
        raise OverBudget(f"{field} has {size} bytes and may have {most}; {remedy}.", field)


def _check_count(count: int, most: int, things: str, field: str, remedy: str = "send fewer") -> None:
    if count > most:
        raise OverBudget(f"{field} has {count} {things} and may have {most}; {remedy}.", field)
