"""Output items of a response, each with its events from `added` to `done`; and custom tools.

Custom tools are functions whose only argument is free text. Models call functions with JSON, so the text is the one
string of an object; clients see the text alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_balancer.edge.openai.reply_fields import TokenLogprob
    from vllama_protos.v1 import generation_pb2

Event = dict[str, Any]
"""One event: `type`, `sequence_number` and its fields."""

Item = dict[str, Any]
"""One complete output item."""

CUSTOM_TOOL_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
"""The schema under which a custom tool is offered to the model."""


class EventLog:
    """Collects events and numbers them."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._next_number = 0

    def append(self, kind: str, **fields: Any) -> None:
        """Appends an event."""
        self._events.append({"type": kind, "sequence_number": self._next_number, **fields})
        self._next_number += 1

    def take(self) -> list[Event]:
        """Returns the events since the last call."""
        events, self._events = self._events, []
        return events


class MessageItem:
    """The text of the answer."""

    def __init__(self, log: EventLog, item_id: str, index: int) -> None:
        self._log = log
        self._item_id = item_id
        self._index = index
        self._position = {"item_id": item_id, "output_index": index, "content_index": 0}
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        log.append("response.output_item.added", output_index=index, item=self._item("in_progress", []))
        log.append("response.content_part.added", **self._position, part=self._part())

    def add(self, text: str, logprobs: Sequence[TokenLogprob]) -> None:
        """Appends text."""
        self._texts.append(text)
        self._logprobs.extend(logprobs)
        self._log.append("response.output_text.delta", **self._position, delta=text, logprobs=logprobs)

    def close(self) -> Item:
        """Appends the closing events and returns the item."""
        part = self._part()
        item = self._item("completed", [part])
        self._log.append("response.output_text.done", **self._position, text=part["text"], logprobs=self._logprobs)
        self._log.append("response.content_part.done", **self._position, part=part)
        self._log.append("response.output_item.done", output_index=self._index, item=item)
        return item

    def _part(self) -> Item:
        text = "".join(self._texts)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(self._logprobs)}

    def _item(self, status: str, content: list[Item]) -> Item:
        return {"id": self._item_id, "type": "message", "status": status, "role": "assistant", "content": content}


class ReasoningItem:
    """Reasoning, in the form of a summary.

    `keep` also puts it into `encrypted_content`, as plain text: stateless clients send it back.
    """

    def __init__(self, log: EventLog, item_id: str, index: int, *, keep: bool) -> None:
        self._log = log
        self._item_id = item_id
        self._index = index
        self._keep = keep
        self._position = {"item_id": item_id, "output_index": index, "summary_index": 0}
        self._texts: list[str] = []
        log.append("response.output_item.added", output_index=index, item=self._item("in_progress", []))
        log.append("response.reasoning_summary_part.added", **self._position, part=_summary(""))

    def add(self, text: str) -> None:
        """Appends reasoning."""
        self._texts.append(text)
        self._log.append("response.reasoning_summary_text.delta", **self._position, delta=text)

    def close(self) -> Item:
        """Appends the closing events and returns the item."""
        text = "".join(self._texts)
        item = self._item("completed", [_summary(text)])
        if self._keep:
            item["encrypted_content"] = text
        self._log.append("response.reasoning_summary_text.done", **self._position, text=text)
        self._log.append("response.reasoning_summary_part.done", **self._position, part=_summary(text))
        self._log.append("response.output_item.done", output_index=self._index, item=item)
        return item

    def _item(self, status: str, summary: list[Item]) -> Item:
        return {"id": self._item_id, "type": "reasoning", "status": status, "summary": summary}


def add_call(log: EventLog, item_id: str, index: int, call: generation_pb2.ToolCall, call_id: str) -> Item:
    """Appends the events of a complete call and returns its item."""
    arguments = call.arguments_json or "{}"
    position = {"item_id": item_id, "output_index": index}
    item = {"id": item_id, "type": "function_call", "call_id": call_id, "name": call.name}
    done = {**item, "status": "completed", "arguments": arguments}
    log.append(
        "response.output_item.added", output_index=index, item={**item, "status": "in_progress", "arguments": ""}
    )
    log.append("response.function_call_arguments.delta", **position, delta=arguments)
    log.append("response.function_call_arguments.done", **position, name=call.name, arguments=arguments)
    log.append("response.output_item.done", output_index=index, item=done)
    return done


def add_custom_call(log: EventLog, item_id: str, index: int, call: generation_pb2.ToolCall, call_id: str) -> Item:
    """Appends the events of a custom tool's call, whose input is plain text, and returns its item."""
    text = custom_input(call.arguments_json)
    position = {"item_id": item_id, "output_index": index}
    item = {"id": item_id, "type": "custom_tool_call", "call_id": call_id, "name": call.name}
    done = {**item, "status": "completed", "input": text}
    log.append("response.output_item.added", output_index=index, item={**item, "status": "in_progress", "input": ""})
    log.append("response.custom_tool_call_input.delta", **position, delta=text)
    log.append("response.custom_tool_call_input.done", **position, input=text)
    log.append("response.output_item.done", output_index=index, item=done)
    return done


def _summary(text: str) -> Item:
    return {"type": "summary_text", "text": text}


def custom_arguments(text: str) -> str:
    """Returns the arguments of an earlier call with this text."""
    return msgspec.json.encode({"input": text}).decode()


def custom_input(arguments_json: str) -> str:
    """Returns the text of a new call; arguments of another form as they are."""
    try:
        return str(msgspec.json.decode(arguments_json, type=dict[str, str])["input"])
    except (msgspec.MsgspecError, KeyError):
        return arguments_json
