"""Chats as vLLM's chat requests, and the shorter versions of a chat that is too long."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.renderers import TokenizeParams

from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.struct_pb2 import Struct, Value

_IMAGE_TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp", b"GIF8": "gif"}
_EFFORTS = {
    pb.THINK_LEVEL_LOW: "low",
    pb.THINK_LEVEL_MEDIUM: "medium",
    pb.THINK_LEVEL_HIGH: "high",
    pb.THINK_LEVEL_MAX: "max",
}
_TOOL_CHOICES = {
    pb.TOOL_CHOICE_MODE_UNSPECIFIED: "auto",
    pb.TOOL_CHOICE_MODE_AUTO: "auto",
    pb.TOOL_CHOICE_MODE_NONE: "none",
    pb.TOOL_CHOICE_MODE_REQUIRED: "required",
}


class RenderRequest(ChatCompletionRequest):  # type: ignore[misc]  # vLLM is not analysed
    """vLLM's chat request without its own length check: the adapter states both lengths in its refusal."""

    def build_tok_params(self, model_config: Any) -> TokenizeParams:
        """Tokenizes without special tokens beyond the template's, however long the text."""
        return TokenizeParams(max_total_tokens=None, add_special_tokens=self.add_special_tokens)


def render_request(
    chat: pb.Chat, messages: Sequence[pb.Message], *, has_tool_parser: bool, structured_outputs: Any = None
) -> RenderRequest:
    """Returns vLLM's request for these turns of a chat. Raises InvalidRequest."""
    values: dict[str, Any] = {
        "messages": [_message(message) for message in messages],
        "stream": True,
        "structured_outputs": structured_outputs,
        "add_generation_prompt": not chat.continue_last,
        "continue_final_message": chat.continue_last,
        **_thinking(chat),
    }
    if chat.tools:
        values["tools"] = [_tool(tool) for tool in chat.tools]
        values["tool_choice"] = _tool_choice(chat) if has_tool_parser else "none"
    try:
        return RenderRequest(**values)
    except ValidationError as error:
        raise InvalidRequest(f"chat: {_first_problem(error)}", "chat") from error
    except (VLLMValidationError, ValueError, TypeError) as error:
        raise InvalidRequest(f"chat: {error}", "chat") from error


def shorter_versions(messages: Sequence[pb.Message]) -> list[list[pb.Message]]:
    """Returns what is left of a chat without ever more of its oldest turns, longest first.

    System turns and the last turn stay. A cut is made before a user turn only, because templates refuse a chat that
    begins with an answer or a tool's result.
    """
    turns = [index for index, message in enumerate(messages) if message.role != "system"]
    cuts = [index for index in turns[1:] if messages[index].role == "user" or index == turns[-1]]
    return [
        [message for index, message in enumerate(messages) if message.role == "system" or index >= cut] for cut in cuts
    ]


def _message(message: pb.Message) -> dict[str, Any]:
    values: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.thinking:
        values["reasoning"] = message.thinking
    if message.tool_calls:
        values["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    if message.role == "tool":
        values["tool_call_id"] = message.tool_call_id or message.tool_name
        values["name"] = message.tool_name
    return values


def _tool_call(call: pb.ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments_json or "{}"}
    return {"id": call.id, "type": "function", "function": function}


def _content(message: pb.Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": _data_url(image.data)}} for image in message.images
    ]
    return [*parts, {"type": "text", "text": message.content}]


def _data_url(image: bytes) -> str:
    kind = next((name for magic, name in _IMAGE_TYPES.items() if image.startswith(magic)), "")
    if not kind:
        raise InvalidRequest(
            "chat.messages.images holds something that is not a PNG, JPEG or WebP file.", "chat.messages.images"
        )
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _tool(tool: pb.Tool) -> dict[str, Any]:
    parameters: Any = {"type": "object", "properties": {}}
    if tool.parameters_json:
        try:
            parameters = json.loads(tool.parameters_json)
        except ValueError as error:
            raise InvalidRequest(
                f"chat.tools: the parameters of {tool.name!r} are not JSON: {error}.", "chat.tools.parameters_json"
            ) from error
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _tool_choice(chat: pb.Chat) -> str | dict[str, Any]:
    choice = chat.tool_choice
    if choice.mode != pb.TOOL_CHOICE_MODE_NAMED:
        return _TOOL_CHOICES[choice.mode]
    if choice.name not in {tool.name for tool in chat.tools}:
        raise InvalidRequest(
            f"chat.tool_choice names {choice.name!r}, which is none of the tools.", "chat.tool_choice.name"
        )
    return {"type": "function", "function": {"name": choice.name}}


def _thinking(chat: pb.Chat) -> dict[str, Any]:
    """Returns the switches of the template; Qwen's and DeepSeek's have different names."""
    switches = _plain_mapping(chat.template_switches)
    if chat.think in _EFFORTS:
        switches.setdefault("enable_thinking", True)
        switches.setdefault("thinking", True)
        return {"reasoning_effort": _EFFORTS[chat.think], "chat_template_kwargs": switches}
    if chat.think != pb.THINK_LEVEL_UNSPECIFIED:
        switches.setdefault("enable_thinking", chat.think == pb.THINK_LEVEL_ON)
        switches.setdefault("thinking", chat.think == pb.THINK_LEVEL_ON)
    return {"chat_template_kwargs": switches or None}


def _plain_mapping(struct: Struct) -> dict[str, Any]:
    return {key: _plain(value) for key, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    """Returns a protobuf Value in plain Python; whole numbers become int, as a template expects them."""
    match value.WhichOneof("kind"):
        case "struct_value":
            return _plain_mapping(value.struct_value)
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


def _first_problem(error: ValidationError) -> str:
    """Returns the first problem that pydantic found, as one sentence."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("Chat"))
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])
