"""Output items of a response: each tells its own events, from `added` to `done`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllama_balancer.edge.openai.custom_tools import custom_input

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_balancer.edge.openai.logprobs import TokenLogprob
    from vllama_protos.v1 import generation_pb2

Event = dict[str, Any]
"""One event: its `type`, its `sequence_number` and what it says."""

Item = dict[str, Any]
"""One complete output item."""


class EventLog:
    """Numbers events in the order in which they are told."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._next_number = 0

    def tell(self, kind: str, **fields: Any) -> None:
        """Appends an event."""
        self._events.append({"type": kind, "sequence_number": self._next_number, **fields})
        self._next_number += 1

    def take(self) -> list[Event]:
        """Gives the events told since the last time."""
        events, self._events = self._events, []
        return events


class MessageItem:
    """The answer's text."""

    def __init__(self, log: EventLog, item_id: str, index: int) -> None:
        self._log = log
        self._item_id = item_id
        self._index = index
        self._place = {"item_id": item_id, "output_index": index, "content_index": 0}
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        log.tell("response.output_item.added", output_index=index, item=self._item("in_progress", []))
        log.tell("response.content_part.added", **self._place, part=self._part())

    def add(self, text: str, logprobs: Sequence[TokenLogprob]) -> None:
        """Tells more of the text."""
        self._texts.append(text)
        self._logprobs.extend(logprobs)
        self._log.tell("response.output_text.delta", **self._place, delta=text, logprobs=logprobs)

    def close(self) -> Item:
        """Tells the end."""
        part = self._part()
        item = self._item("completed", [part])
        self._log.tell("response.output_text.done", **self._place, text=part["text"], logprobs=self._logprobs)
        self._log.tell("response.content_part.done", **self._place, part=part)
        self._log.tell("response.output_item.done", output_index=self._index, item=item)
        return item

    def _part(self) -> Item:
        text = "".join(self._texts)
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(self._logprobs)}

    def _item(self, status: str, content: list[Item]) -> Item:
        return {"id": self._item_id, "type": "message", "status": status, "role": "assistant", "content": content}


class ReasoningItem:
    """Reasoning, told as its own summary.

    `keep` also writes it to `encrypted_content`, as plain text, which stateless clients ask for
    in order to send it back.
    """

    def __init__(self, log: EventLog, item_id: str, index: int, *, keep: bool) -> None:
        self._log = log
        self._item_id = item_id
        self._index = index
        self._keep = keep
        self._place = {"item_id": item_id, "output_index": index, "summary_index": 0}
        self._texts: list[str] = []
        log.tell("response.output_item.added", output_index=index, item=self._item("in_progress", []))
        log.tell("response.reasoning_summary_part.added", **self._place, part=_summary(""))

    def add(self, text: str) -> None:
        """Tells more of the reasoning."""
        self._texts.append(text)
        self._log.tell("response.reasoning_summary_text.delta", **self._place, delta=text)

    def close(self) -> Item:
        """Tells the end."""
        text = "".join(self._texts)
        item = self._item("completed", [_summary(text)])
        if self._keep:
            item["encrypted_content"] = text
        self._log.tell("response.reasoning_summary_text.done", **self._place, text=text)
        self._log.tell("response.reasoning_summary_part.done", **self._place, part=_summary(text))
        self._log.tell("response.output_item.done", output_index=self._index, item=item)
        return item

    def _item(self, status: str, summary: list[Item]) -> Item:
        return {"id": self._item_id, "type": "reasoning", "status": status, "summary": summary}


def tell_call(log: EventLog, item_id: str, index: int, call: generation_pb2.ToolCall, call_id: str) -> Item:
    """Tells a call, which is complete when it comes, and gives its item."""
    arguments = call.arguments_json or "{}"
    place = {"item_id": item_id, "output_index": index}
    item = {"id": item_id, "type": "function_call", "call_id": call_id, "name": call.name}
    done = {**item, "status": "completed", "arguments": arguments}
    log.tell("response.output_item.added", output_index=index, item={**item, "status": "in_progress", "arguments": ""})
    log.tell("response.function_call_arguments.delta", **place, delta=arguments)
    log.tell("response.function_call_arguments.done", **place, name=call.name, arguments=arguments)
    log.tell("response.output_item.done", output_index=index, item=done)
    return done


def tell_custom_call(log: EventLog, item_id: str, index: int, call: generation_pb2.ToolCall, call_id: str) -> Item:
    """Tells a call of a custom tool, whose input is plain text, and gives its item."""
    text = custom_input(call.arguments_json)
    place = {"item_id": item_id, "output_index": index}
    item = {"id": item_id, "type": "custom_tool_call", "call_id": call_id, "name": call.name}
    done = {**item, "status": "completed", "input": text}
    log.tell("response.output_item.added", output_index=index, item={**item, "status": "in_progress", "input": ""})
    log.tell("response.custom_tool_call_input.delta", **place, delta=text)
    log.tell("response.custom_tool_call_input.done", **place, input=text)
    log.tell("response.output_item.done", output_index=index, item=done)
    return done


def _summary(text: str) -> Item:
    return {"type": "summary_text", "text": text}
