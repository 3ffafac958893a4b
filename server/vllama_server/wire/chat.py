"""The chat of a request, from the wire to the engine: turns, tools and what the template is told beside them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.engine.requests import ChatPrompt, Message, ThinkLevel, Tool, ToolCall, ToolMode
from vllama_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.struct_pb2 import Struct, Value

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
