"""Tools: definitions, choice and earlier calls, as messages of the protos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.edge.body import with_whole_characters
from vllama_balancer.edge.wire.json_text import json_text
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODES = {
    "auto": generation_pb2.TOOL_CHOICE_MODE_AUTO,
    "none": generation_pb2.TOOL_CHOICE_MODE_NONE,
    "required": generation_pb2.TOOL_CHOICE_MODE_REQUIRED,
}


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def to_tool(
    name: str | None, description: str | None, parameters: dict[str, Any] | None, field: str
) -> generation_pb2.Tool:
    """Returns one definition. Raises InvalidRequest when it has no name."""
    if not name:
        raise InvalidRequest(f"{field}.name is required", field=f"{field}.name")
    return generation_pb2.Tool(
        name=name,
        description=description or "",
        parameters_json=json_text(parameters, f"{field}.parameters") if parameters else "",
    )


def to_tool_choice(
    mode: str | None, name: str | None, tools: Sequence[generation_pb2.Tool]
) -> generation_pb2.ToolChoice | None:
    """Returns a choice: a mode, or the name of the one function to call; None when neither is given.

    Raises InvalidRequest for an unknown mode, an unknown function, or "required" without tools.
    """
    if name is not None:
        if name not in [tool.name for tool in tools]:
            raise InvalidRequest(f"tool_choice names '{name}', which is not among tools", field="tool_choice")
        return generation_pb2.ToolChoice(mode=generation_pb2.TOOL_CHOICE_MODE_NAMED, name=name)
    if mode is None:
        return None
    if mode not in _MODES:
        message = f'invalid tool_choice: \'{mode}\' (must be "auto", "none", "required" or one function)'
        raise InvalidRequest(message, field="tool_choice")
    if mode == "required" and not tools:
        raise InvalidRequest('tool_choice "required" needs tools', field="tool_choice")
    return generation_pb2.ToolChoice(mode=_MODES[mode])


def to_tool_call(call_id: str | None, name: str | None, arguments: str | None, field: str) -> generation_pb2.ToolCall:
    """Returns an earlier call, whose arguments are a JSON object in a string.

    Raises InvalidRequest when the name is missing or the arguments are something else.
    """
    if not name:
        raise InvalidRequest(f"{field}.name is required", field=f"{field}.name")
    # Several clients send an empty string for a function without parameters.
    text = arguments if arguments and arguments.strip() else "{}"
    if "\\ud" in text or "\\uD" in text:
        text = with_whole_characters(text.encode()).decode()
    try:
        _OBJECT.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        message = f"invalid tool call arguments: {field}.arguments must be a JSON object in a string"
        raise InvalidRequest(message, field=f"{field}.arguments") from error
    return generation_pb2.ToolCall(id=call_id or "", name=name, arguments_json=text)
