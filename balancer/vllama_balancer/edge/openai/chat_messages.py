"""The messages of /v1/chat/completions, translated into turns; and images as data URIs.

The parts of a message become one message, texts joined by line feeds: templates that require alternating roles would
refuse one turn per part. Image URLs are refused: fetching them would let any client make the server call any host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.edge.wire.images import decode_base64_image
from vllama_balancer.edge.wire.tools import to_tool_call
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

_PREFIXES = (
    "data:image/jpeg;base64,",
    "data:image/jpg;base64,",
    "data:image/png;base64,",
    "data:image/webp;base64,",
    "data:;base64,",
)


class ImageUrl(msgspec.Struct, frozen=True):
    """Location of an image."""

    url: str | None = None


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message."""

    type: str | None = None
    text: str | None = None
    refusal: str | None = None
    image_url: str | ImageUrl | None = None


class FunctionCall(msgspec.Struct, frozen=True):
    """Name and arguments of an earlier call."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, frozen=True):
    """An earlier call."""

    id: str | None = None
    function: FunctionCall | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn; `content` is decoded loosely, so that a wrong type gets Ollama's message."""

    role: str | None = None
    content: str | list[ContentPart] | dict[str, Any] | bool | float | None = None
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


def to_messages(messages: Sequence[Message]) -> list[generation_pb2.Message]:
    """Translates a conversation. Raises InvalidRequest that names the wrong message."""
    called: dict[str, str] = {}
    translated = []
    for index, message in enumerate(messages):
        translated.append(_to_message(message, called, f"messages[{index}]"))
        # A result names its call by id only; templates need the function's name. The last call wins.
        called.update((call.id, call.name) for call in translated[-1].tool_calls)
    return translated


def _to_message(message: Message, called: dict[str, str], field: str) -> generation_pb2.Message:
    role = _role(message.role, field)
    text, images = _to_content(message, f"{field}.content")
    call_id = message.tool_call_id or ""
    return generation_pb2.Message(
        role=role,
        content=text,
        images=images,
        thinking=message.reasoning or message.reasoning_content or "",
        tool_calls=_to_tool_calls(message.tool_calls or (), f"{field}.tool_calls"),
        tool_name=(message.name or called.get(call_id, "")) if role == "tool" else "",
        tool_call_id=call_id if role == "tool" else "",
    )


def _role(role: str | None, field: str) -> str:
    if not role:
        raise InvalidRequest(f"{field}.role is required", field=f"{field}.role")
    lowered = role.lower()
    return "system" if lowered == "developer" else lowered


def _to_tool_calls(calls: Sequence[ToolCall], field: str) -> list[generation_pb2.ToolCall]:
    translated = []
    for index, call in enumerate(calls):
        function = call.function or FunctionCall()
        translated.append(to_tool_call(call.id, function.name, function.arguments, f"{field}[{index}].function"))
    return translated


def _to_content(message: Message, field: str) -> tuple[str, list[generation_pb2.Image]]:
    match message.content:
        case str() as text:
            return text, []
        case list() as parts:
            return _to_parts(parts, field)
        case None if message.tool_calls is not None:
            return "", []
    raise InvalidRequest(f"invalid message content type: {_type_word(message.content)} in {field}", field=field)


def _type_word(value: object) -> str:
    words: dict[type, str] = {bool: "bool", dict: "object", float: "number", int: "number"}
    return words.get(type(value), "<nil>")


def _to_parts(parts: Sequence[ContentPart], field: str) -> tuple[str, list[generation_pb2.Image]]:
    texts: list[str] = []
    images: list[generation_pb2.Image] = []
    for index, part in enumerate(parts):
        where = f"{field}[{index}]"
        match part.type:
            case "text" if part.text is not None:
                texts.append(part.text)
            case "refusal" if part.refusal is not None:
                texts.append(part.refusal)
            case "image_url":
                images.append(decode_data_uri(_url_of(part, where), f"{where}.image_url"))
            case "input_audio":
                raise InvalidRequest(f"{where}: audio input is not supported", field=where)
            case _:
                raise InvalidRequest(f"invalid message format: {where} is neither text nor image_url", field=where)
    return "\n".join(texts), images


def _url_of(part: ContentPart, field: str) -> str:
    url = part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url
    if url is None:
        raise InvalidRequest(f"invalid message format: {field}.image_url.url is required", field=f"{field}.image_url")
    return url


def decode_data_uri(url: str, field: str) -> generation_pb2.Image:
    """Decodes a data URI of a JPEG, PNG or WebP image.

    Raises InvalidRequest, naming `field`, for an http(s) address, another media type or broken base64.
    """
    if url.startswith(("http://", "https://")):
        message = f"{field}: image URLs are not currently supported, please use base64 encoded data instead"
        raise InvalidRequest(message, field=field)
    for prefix in _PREFIXES:
        if url.startswith(prefix):
            return decode_base64_image(url.removeprefix(prefix), field)
    message = f"{field}: invalid image input: expected a data URI of a JPEG, PNG or WebP picture in base64"
    raise InvalidRequest(message, field=field)
