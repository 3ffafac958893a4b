"""Replies of /v1/messages: one message, or events, from the events of one generation.

Output comes in blocks, one after the other: a block ends where the next one begins, and a call is a block of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.edge.body import encode_sse
from vllama_balancer.edge.wire.accumulator import check_completed
from vllama_balancer.errors import EngineFault
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from vllama_balancer.edge.wire.accumulator import Accumulator
    from vllama_balancer.edge.wire.accumulator import Event as GenerationEvent

Event = dict[str, Any]
"""One event; its `type` is also its SSE name."""

Block = dict[str, Any]
"""One content block."""


@dataclass(frozen=True, slots=True)
class MessageIdentity:
    """Id and model of a reply."""

    id: str
    """Id of the message: "msg_…"."""
    model: str
    """The name as it was requested."""

    def call_id(self, index: int) -> str:
        """Returns an id for a call without one; unique within the reply."""
        return f"toolu_{self.id.rpartition('_')[2]}_{index}"


def to_message(identity: MessageIdentity, accumulator: Accumulator) -> dict[str, Any]:
    """Returns a whole reply."""
    content: list[Block] = []
    if accumulator.thinking:
        content.append({"type": "thinking", "thinking": accumulator.thinking, "signature": ""})
    if accumulator.text:
        content.append({"type": "text", "text": accumulator.text})
    for call in accumulator.tool_calls:
        content.append(_to_block(identity, call, len(content), _arguments(call)))
    finished = accumulator.finished
    return {
        **_frame(identity, finished.usage.prompt_tokens, finished.usage.completion_tokens),
        "content": content,
        **_stop(finished, called=bool(accumulator.tool_calls)),
    }


class MessageStream:
    """Turns events of a generation into events of a message."""

    def __init__(self, identity: MessageIdentity) -> None:
        self._identity = identity
        self._prompt_tokens = 0
        self._events: list[Event] = []
        self._begun = False
        self._called = False
        self._open_kind = ""
        self._index = 0

    def events(self, event: GenerationEvent) -> list[Event]:
        """Translates one event. Raises WorkerLost for an aborted generation."""
        match event:
            case generation_pb2.Delta():
                self._add(event)
            case generation_pb2.Started():
                self._prompt_tokens = event.prompt_tokens
            case generation_pb2.Finished():
                self._finish(check_completed(event))
        events, self._events = self._events, []
        return events

    def _add(self, delta: generation_pb2.Delta) -> None:
        if delta.thinking:
            self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            self._append_delta({"type": "thinking_delta", "thinking": delta.thinking})
        if delta.text:
            self._open("text", {"type": "text", "text": ""})
            self._append_delta({"type": "text_delta", "text": delta.text})
        for call in delta.tool_calls:
            self._close()
            self._open("tool_use", _to_block(self._identity, call, self._index, {}))
            self._append_delta({"type": "input_json_delta", "partial_json": call.arguments_json or "{}"})
            self._close()
            self._called = True

    def _finish(self, finished: generation_pb2.Finished) -> None:
        self._begin()
        self._close()
        usage = {
            "input_tokens": finished.usage.prompt_tokens,
            "output_tokens": finished.usage.completion_tokens,
        }
        self._append("message_delta", delta=_stop(finished, called=self._called), usage=usage)
        self._append("message_stop")

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._append("message_start", message=_frame(self._identity, self._prompt_tokens, 0))

    def _open(self, kind: str, block: Block) -> None:
        if kind == self._open_kind:
            return
        self._begin()
        self._close()
        self._open_kind = kind
        self._append("content_block_start", index=self._index, content_block=block)

    def _close(self) -> None:
        if self._open_kind:
            self._append("content_block_stop", index=self._index)
            self._open_kind = ""
            self._index += 1

    def _append_delta(self, delta: dict[str, str]) -> None:
        self._append("content_block_delta", index=self._index, delta=delta)

    def _append(self, kind: str, **fields: Any) -> None:
        self._events.append({"type": kind, **fields})


def encode_event(event: Event) -> bytes:
    """Encodes an event with its type as its name: the SDK skips events without one."""
    return encode_sse(event, event["type"])


def _frame(identity: MessageIdentity, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Returns a message without content."""
    return {
        "id": identity.id,
        "type": "message",
        "role": "assistant",
        "model": identity.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": input_tokens, "output_tokens": output_tokens},
    }


def _stop(finished: generation_pb2.Finished, *, called: bool) -> dict[str, str | None]:
    """Returns the stop reason; a truncated message never looks complete."""
    if finished.reason == generation_pb2.FINISH_REASON_LENGTH:
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if called or finished.reason == generation_pb2.FINISH_REASON_TOOL_CALLS:
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if finished.matched_stop:
        return {"stop_reason": "stop_sequence", "stop_sequence": finished.matched_stop}
    return {"stop_reason": "end_turn", "stop_sequence": None}


def _to_block(identity: MessageIdentity, call: generation_pb2.ToolCall, index: int, arguments: dict[str, Any]) -> Block:
    return {"type": "tool_use", "id": call.id or identity.call_id(index), "name": call.name, "input": arguments}


def _arguments(call: generation_pb2.ToolCall) -> dict[str, Any]:
    try:
        return msgspec.json.decode(call.arguments_json or "{}", type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise EngineFault(f"the model's call of {call.name} has no JSON object as arguments") from error
