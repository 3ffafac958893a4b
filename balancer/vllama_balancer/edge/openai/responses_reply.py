"""Replies of /v1/responses: the events of one generation as output items.

The first output of a kind opens an item, and output of another kind closes it: reasoning, text and calls keep the order
in which the model made them. A reply that is not streamed is the response in the last event of the stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllama_balancer.edge import http_errors
from vllama_balancer.edge.body import encode_sse
from vllama_balancer.edge.openai.reply_fields import to_logprobs
from vllama_balancer.edge.openai.responses_items import (
    EventLog,
    MessageItem,
    ReasoningItem,
    add_call,
    add_custom_call,
)
from vllama_balancer.edge.openai.responses_request import TextFormat, ToolChoice
from vllama_balancer.edge.wire.accumulator import check_completed
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.edge.openai.reply_fields import ReplyIdentity
    from vllama_balancer.edge.openai.responses_items import Event, Item
    from vllama_balancer.edge.openai.responses_request import ResponsesRequest
    from vllama_balancer.edge.wire.accumulator import Event as GenerationEvent
    from vllama_balancer.errors import BalancerError

_KEEP_REASONING = "reasoning.encrypted_content"


class ResponseStream:
    """Turns the events of a generation into those of a response."""

    def __init__(self, identity: ReplyIdentity, request: ResponsesRequest, *, now: Callable[[], int]) -> None:
        self._identity = identity
        self._frame = _frame(identity, request)
        self._keep_reasoning = _KEEP_REASONING in (request.include or ())
        self._custom_tools = request.custom_tools
        self._wants_logprobs = request.wants_logprobs
        self._now = now
        self._log = EventLog()
        self._begun = False
        self._output: list[Item] = []
        self._open: MessageItem | ReasoningItem | None = None
        self._completed: Item | None = None

    @property
    def completed(self) -> Item | None:
        """The whole response; None until the generation has finished."""
        return self._completed

    def events(self, event: GenerationEvent) -> list[Event]:
        """Translates one event. Raises WorkerLost for an aborted generation."""
        match event:
            case generation_pb2.Delta():
                self._add(event)
            case generation_pb2.Finished():
                self._finish(check_completed(event))
        return self._log.take()

    def failure(self, error: BalancerError) -> bytes:
        """Returns the last events of a failed stream: the response's own, then a plain error.

        Agents read the first; the SDK raises at the second.
        """
        details = {"code": "server_error", "message": http_errors.message(error)}
        self._begin()
        self._log.append("response.failed", response=self._response("failed", error=details))
        self._log.append("error", **details, param=None, error=details)
        return b"".join(encode_event(event) for event in self._log.take())

    def _add(self, delta: generation_pb2.Delta) -> None:
        if delta.thinking:
            self._reasoning().add(delta.thinking)
        logprobs = to_logprobs(delta.logprobs) if self._wants_logprobs and not delta.thinking else []
        # Tokens may come before their text.
        if delta.text or logprobs:
            self._message().add(delta.text, logprobs)
        for call in delta.tool_calls:
            self._begin()
            self._close()
            self._call(call)

    def _call(self, call: generation_pb2.ToolCall) -> None:
        index = len(self._output)
        call_id = call.id or self._identity.call_id(0, index)
        if call.name in self._custom_tools:
            item = add_custom_call(self._log, self._item_id("ctc"), index, call, call_id)
        else:
            item = add_call(self._log, self._item_id("fc"), index, call, call_id)
        self._output.append(item)

    def _finish(self, finished: generation_pb2.Finished) -> None:
        self._begin()
        self._close_or_answer()
        # Also after a length stop: the SDK's stream helper raises without this event.
        self._completed = self._response("completed", usage=_usage(finished.usage), completed_at=self._now())
        self._log.append("response.completed", response=self._completed)

    def _close_or_answer(self) -> None:
        """Closes the last item; an answer of reasoning alone gets an empty text."""
        self._close()
        if all(item["type"] == "reasoning" for item in self._output):
            self._message()
            self._close()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._log.append("response.created", response=self._response("in_progress"))
            self._log.append("response.in_progress", response=self._response("in_progress"))

    def _message(self) -> MessageItem:
        if isinstance(self._open, MessageItem):
            return self._open
        self._begin()
        self._close()
        self._open = MessageItem(self._log, self._item_id("msg"), len(self._output))
        return self._open

    def _reasoning(self) -> ReasoningItem:
        if isinstance(self._open, ReasoningItem):
            return self._open
        self._begin()
        self._close()
        self._open = ReasoningItem(self._log, self._item_id("rs"), len(self._output), keep=self._keep_reasoning)
        return self._open

    def _close(self) -> None:
        if self._open is not None:
            self._output.append(self._open.close())
            self._open = None

    def _item_id(self, prefix: str) -> str:
        """Returns the id of the next item."""
        return f"{prefix}_{self._identity.token}_{len(self._output)}"

    def _response(self, status: str, **fields: Any) -> Item:
        return {**self._frame, "status": status, "output": list(self._output), **fields}


def encode_event(event: Event) -> bytes:
    """Encodes an event with its type as its name."""
    return encode_sse(event, event["type"])


def _usage(usage: generation_pb2.Usage) -> Item:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_prompt_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _frame(identity: ReplyIdentity, request: ResponsesRequest) -> Item:
    """Returns the fields of every copy of the response: the request's settings, and null for what is not supported."""
    return {
        "id": identity.id,
        "object": "response",
        "created_at": identity.created,
        "completed_at": None,
        "status": "in_progress",
        "incomplete_details": None,
        "model": identity.model,
        "previous_response_id": None,
        "instructions": request.instructions or None,
        "output": [],
        "error": None,
        "tools": request.tools or [],
        "tool_choice": _tool_choice(request),
        "truncation": request.truncation or "disabled",
        "parallel_tool_calls": True,
        "text": {"format": _text_format(request)},
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "presence_penalty": request.presence_penalty or 0,
        "frequency_penalty": request.frequency_penalty or 0,
        "top_logprobs": request.top_logprobs or 0,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "reasoning": request.reasoning,
        "usage": None,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "store": False,
        "background": False,
        "service_tier": "default",
        "metadata": request.metadata or {},
        "safety_identifier": None,
        "prompt_cache_key": request.prompt_cache_key,
    }


def _tool_choice(request: ResponsesRequest) -> str | Item:
    choice = request.tool_choice
    return {"type": choice.type, "name": choice.name} if isinstance(choice, ToolChoice) else choice or "auto"


def _text_format(request: ResponsesRequest) -> TextFormat:
    wanted = request.text.format if request.text is not None else None
    return wanted if wanted is not None and wanted.type else TextFormat(type="text")
