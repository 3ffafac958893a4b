"""Content blocks of requests, translated into turns of a chat.

A message may hold several turns of a chat template: results of calls become tool turns, before the user's own text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.edge.wire.images import decode_base64_image
from vllama_balancer.edge.wire.json_text import json_text
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

_IGNORED = ("redacted_thinking", "server_tool_use", "web_search_tool_result", "tool_reference")
"""Blocks that only Anthropic's servers make and read: ignored, so that a history from there stays usable."""

_ATTRIBUTION = "x-anthropic-billing-header"
"""Start of a system block that Claude Code changes with every request: dropped, for the sake of the prefix cache."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An image."""

    type: str | None = None
    data: str | None = None


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One block, of any type."""

    type: str | None = None
    text: str | None = None
    source: Source | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    thinking: str | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a request."""

    role: str | None = None
    content: str | list[Block] | None = None


def system_text(system: str | Sequence[Block] | None) -> str:
    """Returns the joined system blocks. Raises InvalidRequest for a block that is not text."""
    if system is None or isinstance(system, str):
        return system or ""
    texts = []
    for index, block in enumerate(system):
        if block.type != "text":
            raise _unknown_block(block, f"system[{index}]")
        texts.append(block.text or "")
    return "\n".join(text for text in texts if text and not text.startswith(_ATTRIBUTION))


def to_messages(messages: Sequence[Message]) -> list[generation_pb2.Message]:
    """Translates the conversation. Raises InvalidRequest that names the wrong block."""
    called: dict[str, str] = {}
    turns: list[generation_pb2.Message] = []
    for index, message in enumerate(messages):
        turns += _Turn(message, called, f"messages[{index}]").turns()
    return turns


class _Turn:
    """The parts of one message, by the turns that they become."""

    def __init__(self, message: Message, called: dict[str, str], field: str) -> None:
        if not message.role:
            raise InvalidRequest(f"{field}.role is required", field=f"{field}.role")
        self._called = called
        self._texts: list[str] = []
        self._results: list[generation_pb2.Message] = []
        self._turn = generation_pb2.Message(role=message.role.lower())
        if isinstance(message.content, str):
            self._texts.append(message.content)
        else:
            for index, block in enumerate(message.content or ()):
                self._add(block, f"{field}.content[{index}]")

    def turns(self) -> list[generation_pb2.Message]:
        """Returns tool turns, then the message's own turn unless it would be empty."""
        turn = self._turn
        turn.content = "\n".join(text for text in self._texts if text)
        own = turn.content or turn.images or turn.tool_calls or turn.thinking or not self._results
        return [*self._results, turn] if own else self._results

    def _add(self, block: Block, field: str) -> None:
        match block.type:
            case "text":
                self._texts.append(block.text or "")
            case "image":
                self._turn.images.append(_to_image(block.source, field))
            case "thinking":
                self._turn.thinking += block.thinking or ""
            case "tool_use":
                self._turn.tool_calls.append(self._to_call(block, field))
            case "tool_result":
                self._results.append(self._to_result(block, field))
            case ignored if ignored in _IGNORED:
                return
            case _:
                raise _unknown_block(block, field)

    def _to_call(self, block: Block, field: str) -> generation_pb2.ToolCall:
        if not block.id:
            raise InvalidRequest(f"tool_use block missing required 'id' field: {field}.id", field=f"{field}.id")
        if not block.name:
            raise InvalidRequest(f"tool_use block missing required 'name' field: {field}.name", field=f"{field}.name")
        self._called[block.id] = block.name
        arguments = json_text(block.input or {}, f"{field}.input")
        return generation_pb2.ToolCall(id=block.id, name=block.name, arguments_json=arguments)

    def _to_result(self, block: Block, field: str) -> generation_pb2.Message:
        result = generation_pb2.Message(role="tool", tool_call_id=block.tool_use_id or "")
        result.tool_name = self._called.get(result.tool_call_id, "")
        if block.content is None or isinstance(block.content, str):
            result.content = block.content or ""
            return result
        texts = []
        for index, part in enumerate(block.content):
            where = f"{field}.content[{index}]"
            if part.type == "text":
                texts.append(part.text or "")
            elif part.type == "image":
                result.images.append(_to_image(part.source, where))
            elif part.type not in _IGNORED:
                raise _unknown_block(part, where)
        result.content = "\n".join(texts)
        return result


def _to_image(source: Source | None, field: str) -> generation_pb2.Image:
    kind = None if source is None else source.type
    if source is None or kind != "base64":
        message = f"invalid image source type: {kind}. Only base64 images are supported. ({field}.source)"
        raise InvalidRequest(message, field=f"{field}.source")
    return decode_base64_image(source.data or "", f"{field}.source.data")


def _unknown_block(block: Block, field: str) -> InvalidRequest:
    message = f"{field}.type: blocks of type '{block.type}' are not supported"
    return InvalidRequest(message, field=f"{field}.type")
