"""From the wire to the engine: checks every field of a request and says which one is wrong.

What an engine can serve by clamping (a temperature of 5) passes; what has no meaning (a
temperature that is no number, a schema that is no JSON) is refused here, before any work.

The chat of a request, from the wire to the engine: turns, tools and what the template is told beside them.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.engine.requests import (
    ChatPrompt,
    FormatKind,
    GenerationRequest,
    Message,
    OutputFormat,
    Sampling,
    TextPrompt,
    ThinkLevel,
    TokenPrompt,
    Tool,
    ToolCall,
    ToolMode,
)
from vllama_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.struct_pb2 import Struct, Value

    from vllama_server.engine.requests import Prompt


REQUEST_ID_CHARACTERS = 128
MOST_LOGPROBS = 20
MOST_STOP_TEXTS = 64

_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def generation_request(request: pb.GenerateRequest, request_id: str) -> GenerationRequest:
    """Converts a request; `request_id` is the id by which the engine shall know it.

    Raises InvalidRequest that names the field and the fix.
    """
    return GenerationRequest(
        request_id=request_id,
        prompt=_prompt(request),
        sampling=sampling(request.sampling),
        output_format=_output_format(request.output_format) if request.HasField("output_format") else None,
        logprobs=_logprobs(request),
        drop_oldest=_drops_oldest(request.truncation),
        max_context_tokens=request.max_context_tokens,
        priority=request.priority,
        resume_token_ids=tuple(request.resume_token_ids),
    )


def tokenize_prompt(request: pb.TokenizeRequest) -> TextPrompt | ChatPrompt:
    """Converts the input of a Tokenize call. Raises InvalidRequest."""
    match request.WhichOneof("input"):
        case "prompt":
            return TextPrompt(request.prompt)
        case "chat":
            return chat_prompt(request.chat)
        case _:
            raise InvalidRequest("input is missing: set prompt or chat.", "input")


def check_request_id(request_id: str) -> None:
    """Raises InvalidRequest for an id that would not fit a log line."""
    if len(request_id) > REQUEST_ID_CHARACTERS:
        raise InvalidRequest(
            f"request_id has {len(request_id)} characters; use {REQUEST_ID_CHARACTERS} at most.", "request_id"
        )
    if not (request_id.isascii() and request_id.isprintable()):
        raise InvalidRequest("request_id holds other than printable ASCII characters; leave them out.", "request_id")


def sampling(message: pb.Sampling) -> Sampling:
    """Converts sampling options; unset fields become None. Raises InvalidRequest."""
    for name in _FLOATS:
        if message.HasField(name) and not math.isfinite(getattr(message, name)):
            raise InvalidRequest(f"sampling.{name} is not a finite number; give one or unset it.", f"sampling.{name}")
    _check_stop(message)
    options = Sampling(
        temperature=message.temperature if message.HasField("temperature") else None,
        top_p=message.top_p if message.HasField("top_p") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        min_p=message.min_p if message.HasField("min_p") else None,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else None,
        presence_penalty=message.presence_penalty if message.HasField("presence_penalty") else None,
        frequency_penalty=message.frequency_penalty if message.HasField("frequency_penalty") else None,
        seed=message.seed if message.HasField("seed") and message.seed >= 0 else None,
        stop=tuple(message.stop),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        min_tokens=message.min_tokens if message.HasField("min_tokens") else None,
        ignore_eos=message.ignore_eos if message.HasField("ignore_eos") else None,
    )
    _check_ranges(options)
    return options


def _check_stop(message: pb.Sampling) -> None:
    if len(message.stop) > MOST_STOP_TEXTS:
        raise InvalidRequest(
            f"sampling.stop has {len(message.stop)} texts; give {MOST_STOP_TEXTS} at most.", "sampling.stop"
        )
    if not all(message.stop):
        raise InvalidRequest("sampling.stop holds an empty text; leave it out.", "sampling.stop")


def _check_ranges(options: Sampling) -> None:
    if options.min_p is not None and not 0 <= options.min_p <= 1:
        raise InvalidRequest(f"sampling.min_p is {options.min_p:g}; give 0 to 1.", "sampling.min_p")
    least, most = options.min_tokens or 0, options.max_tokens
    if most is not None and 0 <= most < least:
        raise InvalidRequest(
            f"sampling.min_tokens is {least} and more than max_tokens, {most}; lower it.", "sampling.min_tokens"
        )


def _prompt(request: pb.GenerateRequest) -> Prompt:
    kind = request.WhichOneof("input")
    if request.suffix and kind != "prompt":
        raise InvalidRequest("suffix works with prompt only; leave it out or set prompt.", "suffix")
    if request.context_token_ids and kind != "chat":
        raise InvalidRequest("context_token_ids works with chat only; put the ids into token_ids.", "context_token_ids")
    match kind:
        case "prompt":
            return TextPrompt(request.prompt, request.suffix)
        case "token_ids":
            if not request.token_ids.ids:
                raise InvalidRequest("token_ids is empty; give at least one id.", "token_ids")
            return TokenPrompt(tuple(request.token_ids.ids))
        case "chat":
            return chat_prompt(request.chat, tuple(request.context_token_ids))
        case _:
            raise InvalidRequest("input is missing: set one of prompt, token_ids and chat.", "input")


def _logprobs(request: pb.GenerateRequest) -> int | None:
    if request.top_logprobs > MOST_LOGPROBS:
        raise InvalidRequest(f"top_logprobs is {request.top_logprobs}; give {MOST_LOGPROBS} at most.", "top_logprobs")
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs; set logprobs too.", "top_logprobs")
    return request.top_logprobs if request.logprobs else None


def _drops_oldest(truncation: pb.Truncation) -> bool:
    if truncation not in pb.Truncation.values():
        raise InvalidRequest(f"truncation has the unknown value {truncation}; use REJECT or DROP_OLDEST.", "truncation")
    return truncation == pb.TRUNCATION_DROP_OLDEST


def _output_format(message: pb.OutputFormat) -> OutputFormat:
    kind = message.WhichOneof("kind")
    match kind:
        case "json_object":
            if not message.json_object:
                raise InvalidRequest(
                    "output_format.json_object is false; leave output_format unset for free text.",
                    "output_format.json_object",
                )
            return OutputFormat(FormatKind.JSON_OBJECT)
        case "json_schema":
            _check_schema(message.json_schema)
            return OutputFormat(FormatKind.JSON_SCHEMA, message.json_schema)
        case "regex" | "grammar":
            spec = getattr(message, kind)
            if not spec:
                raise InvalidRequest(
                    f"output_format.{kind} is empty; give one or leave it out.", f"output_format.{kind}"
                )
            return OutputFormat(FormatKind(kind), spec)
        case "choice":
            if not message.choice.options or not all(message.choice.options):
                raise InvalidRequest("output_format.choice needs options, none empty.", "output_format.choice")
            return OutputFormat(FormatKind.CHOICE, choices=tuple(message.choice.options))
        case _:
            raise InvalidRequest("output_format has no kind; set one or leave output_format unset.", "output_format")


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


THINK_LEVELS = {
    pb.THINK_LEVEL_UNSPECIFIED: ThinkLevel.DEFAULT,
    pb.THINK_LEVEL_OFF: ThinkLevel.OFF,
    pb.THINK_LEVEL_ON: ThinkLevel.ON,
    pb.THINK_LEVEL_LOW: ThinkLevel.LOW,
    pb.THINK_LEVEL_MEDIUM: ThinkLevel.MEDIUM,
    pb.THINK_LEVEL_HIGH: ThinkLevel.HIGH,
    pb.THINK_LEVEL_MAX: ThinkLevel.MAX,
}
TOOL_MODES = {
    pb.TOOL_CHOICE_MODE_UNSPECIFIED: ToolMode.AUTO,
    pb.TOOL_CHOICE_MODE_AUTO: ToolMode.AUTO,
    pb.TOOL_CHOICE_MODE_NONE: ToolMode.NONE,
    pb.TOOL_CHOICE_MODE_REQUIRED: ToolMode.REQUIRED,
    pb.TOOL_CHOICE_MODE_NAMED: ToolMode.NAMED,
}


def chat_prompt(chat: pb.Chat, context_token_ids: tuple[int, ...] = ()) -> ChatPrompt:
    """Converts a chat. Raises InvalidRequest that names the field and the fix."""
    if not chat.messages:
        raise InvalidRequest("chat.messages is empty; give at least one message.", "chat.messages")
    tools = tuple(_tool(tool, f"chat.tools[{index}]") for index, tool in enumerate(chat.tools))
    mode = _tool_mode(chat.tool_choice, tools)
    if chat.think not in THINK_LEVELS:
        raise InvalidRequest(f"chat.think has the unknown value {chat.think}; use a ThinkLevel.", "chat.think")
    return ChatPrompt(
        messages=tuple(_message(message, f"chat.messages[{index}]") for index, message in enumerate(chat.messages)),
        tools=tools,
        tool_mode=mode,
        tool_name=chat.tool_choice.name if mode is ToolMode.NAMED else "",
        think=THINK_LEVELS[chat.think],
        template_switches=_mapping(chat.template_switches),
        context_token_ids=context_token_ids,
        continue_last=_continues(chat),
        template=chat.template,
    )


def _continues(chat: pb.Chat) -> bool:
    """Tells whether the last turn is to be continued; only an answer's text can be."""
    last = chat.messages[-1]
    if chat.continue_last and (last.role != "assistant" or not last.content or last.tool_calls):
        raise InvalidRequest(
            "chat.continue_last needs a last turn of the assistant with text and without calls; leave it unset.",
            "chat.continue_last",
        )
    return chat.continue_last


def _message(message: pb.Message, field: str) -> Message:
    if not message.role:
        raise InvalidRequest(f"{field}.role is empty; use user, assistant, system or tool.", f"{field}.role")
    if not all(image.data for image in message.images):
        raise InvalidRequest(f"{field}.images holds an empty picture; leave it out.", f"{field}.images")
    return Message(
        role=message.role,
        content=message.content,
        images=tuple(image.data for image in message.images),
        thinking=message.thinking,
        tool_calls=tuple(_tool_call(call, f"{field}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)),
        tool_name=message.tool_name,
        tool_call_id=message.tool_call_id,
    )


def _tool_call(call: pb.ToolCall, field: str) -> ToolCall:
    if not call.name:
        raise InvalidRequest(f"{field}.name is empty; name the function.", f"{field}.name")
    _check_object(call.arguments_json, f"{field}.arguments_json")
    return ToolCall(call.id, call.name, call.arguments_json or "{}")


def _tool(tool: pb.Tool, field: str) -> Tool:
    if not tool.name:
        raise InvalidRequest(f"{field}.name is empty; name the function.", f"{field}.name")
    _check_object(tool.parameters_json, f"{field}.parameters_json")
    return Tool(tool.name, tool.description, tool.parameters_json)


def _tool_mode(choice: pb.ToolChoice, tools: tuple[Tool, ...]) -> ToolMode:
    if choice.mode not in TOOL_MODES:
        raise InvalidRequest(f"chat.tool_choice.mode has the unknown value {choice.mode}.", "chat.tool_choice.mode")
    mode = TOOL_MODES[choice.mode]
    if mode is ToolMode.REQUIRED and not tools:
        raise InvalidRequest("chat.tool_choice requires a call and chat.tools is empty; give tools.", "chat.tools")
    if mode is ToolMode.NAMED and choice.name not in (tool.name for tool in tools):
        raise InvalidRequest(
            f"chat.tool_choice.name is {choice.name!r}, which is none of chat.tools; name one of them.",
            "chat.tool_choice.name",
        )
    return mode


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


def _mapping(struct: Struct) -> Mapping[str, object]:
    return {key: _plain(value) for key, value in struct.fields.items()}


def _plain(value: Value) -> object:
    """Turns a protobuf Value into plain Python; whole numbers become int, as a template expects them."""
    kind = value.WhichOneof("kind")
    match kind:
        case "struct_value":
            return _mapping(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None
