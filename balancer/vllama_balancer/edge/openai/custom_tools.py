"""Custom tools of /v1/responses: functions whose only argument is free text.

Models are taught to call functions with JSON, so the text travels as the one string of an object;
clients see the text alone.
"""

from __future__ import annotations

from typing import Any

import msgspec

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
"""The schema under which a custom tool is offered to the model."""


def custom_arguments(text: str) -> str:
    """Wraps the text of an earlier call."""
    return msgspec.json.encode({"input": text}).decode()


def custom_input(arguments_json: str) -> str:
    """Unwraps the text of a new call; arguments of another form are passed on as they are."""
    try:
        return str(msgspec.json.decode(arguments_json, type=dict[str, str])["input"])
    except (msgspec.MsgspecError, KeyError):
        return arguments_json
