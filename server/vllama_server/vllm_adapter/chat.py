"""Conversations of the contract as vLLM's chat requests, and which turns go when they are too long."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.renderers import TokenizeParams

from vllama_server.engine.requests import ThinkLevel, ToolMode
from vllama_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_server.engine.requests import ChatPrompt, Message, Tool

_IMAGE_TYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp", b"GIF8": "gif"}
_EFFORTS = {ThinkLevel.LOW: "low", ThinkLevel.MEDIUM: "medium", ThinkLevel.HIGH: "high", ThinkLevel.MAX: "max"}


class RenderRequest(ChatCompletionRequest):  # type: ignore[misc]  # vLLM is not analysed
    """vLLM's chat request without its own length check: the adapter states both lengths in its refusal."""

    def build_tok_params(self, model_config: Any) -> TokenizeParams:
        """Tokenizes without special tokens beyond the template's, however long the text."""
        return TokenizeParams(max_total_tokens=None, add_special_tokens=self.add_special_tokens)


def render_request(
    chat: ChatPrompt, messages: Sequence[Message], *, has_tool_parser: bool, structured_outputs: Any = None
) -> RenderRequest:
    """Builds vLLM's request for these turns of a chat. Raises InvalidRequest."""
    values: dict[str, Any] = {
        "messages": [_message(message) for message in messages],
        "stream": True,
        "structured_outputs": structured_outputs,
        "add_generation_prompt": not chat.continue_last,
        "continue_final_message": chat.continue_last,
        "chat_template": chat.template or None,
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


def shorter_versions(messages: Sequence[Message]) -> list[list[Message]]:
    """Lists what is left of a chat after dropping ever more of its oldest turns, longest first.

    System turns and the last turn stay. A cut is made before a user turn only, because templates
    refuse a conversation that opens with an answer or with the result of a tool.
    """
    spoken = [index for index, message in enumerate(messages) if message.role != "system"]
    cuts = [index for index in spoken[1:] if messages[index].role == "user" or index == spoken[-1]]
    return [
        [message for index, message in enumerate(messages) if message.role == "system" or index >= cut] for cut in cuts
    ]


def _message(message: Message) -> dict[str, Any]:
    values: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.thinking:
        values["reasoning"] = message.thinking
    if message.tool_calls:
        values["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}
            for call in message.tool_calls
        ]
    if message.role == "tool":
        values["tool_call_id"] = message.tool_call_id or message.tool_name
        values["name"] = message.tool_name
    return values


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images
    ]
    return [*parts, {"type": "text", "text": message.content}]


def _data_url(image: bytes) -> str:
    kind = next((name for magic, name in _IMAGE_TYPES.items() if image.startswith(magic)), "")
    if not kind:
        raise InvalidRequest(
            "chat.messages.images holds something that is not a PNG, JPEG or WebP file.", "chat.messages.images"
        )
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _tool(tool: Tool) -> dict[str, Any]:
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


def _tool_choice(chat: ChatPrompt) -> str | dict[str, Any]:
    if chat.tool_mode is not ToolMode.NAMED:
        return str(chat.tool_mode.value)
    if chat.tool_name not in {tool.name for tool in chat.tools}:
        raise InvalidRequest(
            f"chat.tool_choice names {chat.tool_name!r}, which is none of the tools.", "chat.tool_choice.name"
        )
    return {"type": "function", "function": {"name": chat.tool_name}}


def _thinking(chat: ChatPrompt) -> dict[str, Any]:
    switches = dict(chat.template_switches)
    if chat.think in _EFFORTS:
        switches.setdefault("enable_thinking", True)
        switches.setdefault("thinking", True)
        return {"reasoning_effort": _EFFORTS[chat.think], "chat_template_kwargs": switches}
    if chat.think is not ThinkLevel.DEFAULT:
        switches.setdefault("enable_thinking", chat.think is ThinkLevel.ON)
        switches.setdefault("thinking", chat.think is ThinkLevel.ON)
    return {"chat_template_kwargs": switches or None}


def _first_problem(error: ValidationError) -> str:
    """Takes the first problem that pydantic found, as one sentence."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("Chat"))
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])
