"""The `input` of /v1/responses: items in any order, put together to the turns of a chat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vllama_balancer.edge.openai.custom_tools import custom_arguments
from vllama_balancer.edge.openai.images import decode_data_uri
from vllama_balancer.edge.wire.tools import to_tool_call
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


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
    """Builds the turns, instructions first as a system turn. Raises InvalidRequest that names the wrong item."""
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
    """The turns so far, and the reasoning that waits for its turn."""

    def __init__(self) -> None:
        self.messages: list[generation_pb2.Message] = []
        self._thinking = ""
        self._called: dict[str, str] = {}

    def add(self, item: InputItem, field: str) -> None:
        """Adds one item."""
        # Examples of the client leave the type of messages out.
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
        """Gives the turns; reasoning that nothing followed becomes a turn of its own."""
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
    """Reasoning comes back as its summary, or in the field that this server fills with plain text."""
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
