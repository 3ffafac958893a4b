"""Validation of requests: checks every field and names the one that is wrong.

A value that an engine can clamp (a temperature of 5) passes. A value without meaning (a temperature that is no
number, a schema that is no JSON) is refused here, before any work.
"""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

from google.protobuf.unknown_fields import UnknownFieldSet

from vllama_protos import budgets
from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from vllama_protos.v1 import embedding_pb2

REQUEST_ID_CHARACTERS = 128
MOST_LOGPROBS = 20
MOST_STOP_TEXTS = 64
LIMITS = budgets.RequestLimits(text_bytes=64 * budgets.MIB, choices_bytes=64 * budgets.MIB)
"""The balancer's flags bound the bytes of a request; here one message of gRPC does, and the rest is as there."""

_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def check_generate_request(request: pb.GenerateRequest) -> None:
    """Raises InvalidRequest that names the field and the fix."""
    with _within_budget():
        budgets.check_generation(request, LIMITS)
    _check_input(request)
    _check_sampling(request.sampling)
    if request.HasField("output_format"):
        _check_output_format(request.output_format)
    _check_logprobs(request)
    if request.truncation not in pb.Truncation.values():
        raise InvalidRequest(
            f"truncation has the unknown value {request.truncation}; use REJECT or DROP_OLDEST.", "truncation"
        )


def check_tokenize_request(request: pb.TokenizeRequest) -> None:
    """Raises InvalidRequest that names the field and the fix."""
    with _within_budget():
        budgets.check_tokenization(request, LIMITS)
    match request.WhichOneof("input"):
        case "prompt":
            return
        case "chat":
            _check_chat(request.chat)
        case _:
            raise InvalidRequest("input is missing: set prompt or chat.", "input")


def check_detokenize_request(request: pb.DetokenizeRequest) -> None:
    """Raises InvalidRequest for too many ids."""
    with _within_budget():
        budgets.check_detokenization(request, LIMITS)


def check_embed_request(request: embedding_pb2.EmbedRequest) -> None:
    """Raises InvalidRequest that names the field and the fix."""
    if not request.inputs:
        raise InvalidRequest("inputs is empty; give at least one text.", "inputs")
    with _within_budget():
        budgets.check_embedding(request, LIMITS)


@contextmanager
def _within_budget() -> Iterator[None]:
    try:
        yield
    except budgets.OverBudget as error:
        raise InvalidRequest(str(error), error.field) from error


def check_template(chat: pb.Chat, *, is_trusted: bool) -> None:
    """Raises InvalidRequest for a template of a client's, unless the operator trusts those."""
    if chat.template and not (is_trusted or chat.template_is_stored):
        raise InvalidRequest(
            "chat.template: templates of requests are not rendered here; leave it out, store it with /api/create, "
            "or start the server with --trust-client-templates.",
            "chat.template",
        )


def check_request_id(request_id: str) -> None:
    """Raises InvalidRequest for an id that would not fit a log line."""
    if len(request_id) > REQUEST_ID_CHARACTERS:
        raise InvalidRequest(
            f"request_id has {len(request_id)} characters; use {REQUEST_ID_CHARACTERS} at most.", "request_id"
        )
    if not (request_id.isascii() and request_id.isprintable()):
        raise InvalidRequest("request_id holds other than printable ASCII characters; leave them out.", "request_id")


def _check_input(request: pb.GenerateRequest) -> None:
    kind = request.WhichOneof("input")
    if request.suffix and kind != "prompt":
        raise InvalidRequest("suffix works with prompt only; leave it out or set prompt.", "suffix")
    if request.context_token_ids and kind != "chat":
        raise InvalidRequest("context_token_ids works with chat only; put the ids into token_ids.", "context_token_ids")
    match kind:
        case "prompt":
            return
        case "token_ids":
            if not request.token_ids.ids:
                raise InvalidRequest("token_ids is empty; give at least one id.", "token_ids")
        case "chat":
            _check_chat(request.chat)
        case _:
            raise InvalidRequest("input is missing: set one of prompt, token_ids and chat.", "input")


def _check_sampling(message: pb.Sampling) -> None:
    for name in _FLOATS:
        if message.HasField(name) and not math.isfinite(getattr(message, name)):
            raise InvalidRequest(f"sampling.{name} is not a finite number; give one or unset it.", f"sampling.{name}")
    if len(message.stop) > MOST_STOP_TEXTS:
        raise InvalidRequest(
            f"sampling.stop has {len(message.stop)} texts; give {MOST_STOP_TEXTS} at most.", "sampling.stop"
        )
    if not all(message.stop):
        raise InvalidRequest("sampling.stop holds an empty text; leave it out.", "sampling.stop")
    if message.HasField("min_p") and not 0 <= message.min_p <= 1:
        raise InvalidRequest(f"sampling.min_p is {message.min_p:g}; give 0 to 1.", "sampling.min_p")
    if message.HasField("max_tokens") and 0 <= message.max_tokens < message.min_tokens:
        raise InvalidRequest(
            f"sampling.min_tokens is {message.min_tokens} and more than max_tokens, {message.max_tokens}; lower it.",
            "sampling.min_tokens",
        )


def _check_logprobs(request: pb.GenerateRequest) -> None:
    if request.top_logprobs > MOST_LOGPROBS:
        raise InvalidRequest(f"top_logprobs is {request.top_logprobs}; give {MOST_LOGPROBS} at most.", "top_logprobs")
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs; set logprobs too.", "top_logprobs")


def _check_output_format(message: pb.OutputFormat) -> None:
    _check_known(message, "output_format")
    _check_known(message.choice, "output_format.choice")
    kind = message.WhichOneof("kind")
    match kind:
        case "json_object":
            if not message.json_object:
                raise InvalidRequest(
                    "output_format.json_object is false; leave output_format unset for free text.",
                    "output_format.json_object",
                )
        case "json_schema":
            _check_schema(message.json_schema)
        case "regex" | "grammar":
            if not getattr(message, kind):
                raise InvalidRequest(
                    f"output_format.{kind} is empty; give one or leave it out.", f"output_format.{kind}"
                )
        case "choice":
            if not message.choice.options or not all(message.choice.options):
                raise InvalidRequest("output_format.choice needs options, none empty.", "output_format.choice")
        case _:
            raise InvalidRequest("output_format has no kind; set one or leave output_format unset.", "output_format")


def _check_known(constraint: Message, field: str) -> None:
    """Refuses a constraint of a newer caller: without it the output would be another one than was asked for."""
    if len(UnknownFieldSet(constraint)):
        raise InvalidRequest(f"{field} has a constraint that this worker does not know; upgrade the worker.", field)


def _check_schema(text: str) -> None:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"output_format.json_schema is no JSON ({error}); send the schema as JSON text.",
            "output_format.json_schema",
        ) from None
    if not isinstance(schema, dict | bool):
        raise InvalidRequest("output_format.json_schema is no schema; send a JSON object.", "output_format.json_schema")


def _check_chat(chat: pb.Chat) -> None:
    if not chat.messages:
        raise InvalidRequest("chat.messages is empty; give at least one message.", "chat.messages")
    for index, tool in enumerate(chat.tools):
        _check_tool(tool, f"chat.tools[{index}]")
    _check_tool_choice(chat)
    if chat.think not in pb.ThinkLevel.values():
        raise InvalidRequest(f"chat.think has the unknown value {chat.think}; use a ThinkLevel.", "chat.think")
    for index, message in enumerate(chat.messages):
        _check_message(message, f"chat.messages[{index}]")
    last = chat.messages[-1]
    if chat.continue_last and (last.role != "assistant" or not last.content or last.tool_calls):
        raise InvalidRequest(
            "chat.continue_last needs a last turn of the assistant with text and without calls; leave it unset.",
            "chat.continue_last",
        )


def _check_message(message: pb.Message, field: str) -> None:
    if not message.role:
        raise InvalidRequest(f"{field}.role is empty; use user, assistant, system or tool.", f"{field}.role")
    if not all(image.data for image in message.images):
        raise InvalidRequest(f"{field}.images holds an empty picture; leave it out.", f"{field}.images")
    for index, call in enumerate(message.tool_calls):
        place = f"{field}.tool_calls[{index}]"
        if not call.name:
            raise InvalidRequest(f"{place}.name is empty; name the function.", f"{place}.name")
        _check_object(call.arguments_json, f"{place}.arguments_json")


def _check_tool(tool: pb.Tool, field: str) -> None:
    if not tool.name:
        raise InvalidRequest(f"{field}.name is empty; name the function.", f"{field}.name")
    _check_object(tool.parameters_json, f"{field}.parameters_json")


def _check_tool_choice(chat: pb.Chat) -> None:
    _check_known(chat.tool_choice, "chat.tool_choice")
    mode, name = chat.tool_choice.mode, chat.tool_choice.name
    if mode not in pb.ToolChoiceMode.values():
        raise InvalidRequest(f"chat.tool_choice.mode has the unknown value {mode}.", "chat.tool_choice.mode")
    if mode == pb.TOOL_CHOICE_MODE_REQUIRED and not chat.tools:
        raise InvalidRequest("chat.tool_choice requires a call and chat.tools is empty; give tools.", "chat.tools")
    if mode == pb.TOOL_CHOICE_MODE_NAMED and name not in (tool.name for tool in chat.tools):
        raise InvalidRequest(
            f"chat.tool_choice.name is {name!r}, which is none of chat.tools; name one of them.",
            "chat.tool_choice.name",
        )


def _check_object(text: str, field: str) -> None:
    """Accepts an empty text and the JSON text of an object."""
    if not text:
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{field} is no JSON ({error}); send an object as JSON text.", field) from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{field} is no JSON object; send one.", field)
