"""Encodes the events of a generation as Ollama's replies: as a stream of lines, or as one object.

Generate and chat differ in the shape of a reply only. A chunk carries thinking or text or calls, not several of them.

`PlainLines` is the fast path: nearly every chunk is text and nothing else, and encoding all keys of a reply for each
costs several times as much as joining constant bytes. A property test holds the two byte for byte equal.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import msgspec

from vllama_balancer.edge.body import compact_json, encode_json, encode_line
from vllama_balancer.edge.ollama.schema import (
    AssistantMessage,
    Logprob,
    Reply,
    ReplyFunction,
    ReplyToolCall,
    TopLogprob,
)
from vllama_balancer.edge.wire.accumulator import Accumulator, check_completed
from vllama_balancer.errors import EngineFault, InvalidRequest
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
    from datetime import datetime

    from vllama_balancer.edge.ollama.timings import GenerationTimings
    from vllama_balancer.edge.wire.accumulator import Event

_REASONS = {
    generation_pb2.FINISH_REASON_STOP: "stop",
    generation_pb2.FINISH_REASON_TOOL_CALLS: "stop",
    generation_pb2.FINISH_REASON_LENGTH: "length",
}


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Some of the answer, or all of it. One is made per token: a struct costs a third of a dataclass."""

    text: str = ""
    thinking: str = ""
    calls: list[ReplyToolCall] = []
    logprobs: list[Logprob] = []


class ReplyEncoder:
    """Encodes one generation in one shape of reply."""

    def __init__(
        self, requested: str, now: Callable[[], datetime], timings: GenerationTimings, plain: PlainLines
    ) -> None:
        """`requested` is the model's name as the client wrote it."""
        self._requested = requested
        self._now = now
        self._timings = timings
        self._plain = plain
        self._calls = 0

    async def lines(self, events: AsyncIterable[Event]) -> AsyncIterator[bytes]:
        """Yields lines of NDJSON as the events come: chunks, and exactly one last chunk.

        Raises what the generation raises; EngineFault when it stops without an end.
        """
        ended = False
        async for event in events:
            match event:
                case generation_pb2.Delta():
                    self._timings.record_output(event)
                    if is_plain(event):
                        yield self._plain.line(event.text)
                    else:
                        for piece in self._pieces(event):
                            yield encode_line(self._chunk(piece))
                case generation_pb2.Started():
                    self._timings.record_started(event)
                case generation_pb2.Finished():
                    ended = True
                    yield encode_line(self._last(Piece(), check_completed(event)))
        if not ended:
            raise EngineFault("the generation stopped without saying how it ended")

    async def whole(self, events: AsyncIterable[Event]) -> Reply:
        """Returns the whole generation as one reply. Raises as `lines` does."""
        accumulator = Accumulator()
        async for event in events:
            match event:
                case generation_pb2.Delta():
                    self._timings.record_output(event)
                case generation_pb2.Started():
                    self._timings.record_started(event)
            accumulator.add(event)
        calls = self._tool_calls(accumulator.tool_calls)
        everything = Piece(accumulator.text, accumulator.thinking, calls, _logprobs(accumulator.logprobs))
        return self._last(everything, accumulator.finished)

    def empty(self, done_reason: str) -> Reply:
        """Returns the reply to a request that only loads or unloads a model."""
        raise NotImplementedError

    def _chunk(self, piece: Piece) -> Reply:
        raise NotImplementedError

    def _last(self, piece: Piece, finished: generation_pb2.Finished) -> Reply:
        raise NotImplementedError

    def _pieces(self, delta: generation_pb2.Delta) -> list[Piece]:
        logprobs = _logprobs(delta.logprobs) if delta.logprobs else []
        pieces = []
        if delta.thinking:
            pieces.append(Piece(thinking=delta.thinking))
        if delta.text:
            pieces.append(Piece(text=delta.text))
        if delta.tool_calls:
            pieces.append(Piece(calls=self._tool_calls(delta.tool_calls)))
        if logprobs:
            last = pieces.pop() if pieces else Piece()
            pieces.append(Piece(last.text, last.thinking, last.calls, logprobs))
        return pieces

    def _tool_calls(self, calls: Iterable[generation_pb2.ToolCall]) -> list[ReplyToolCall]:
        encoded = []
        for call in calls:
            function = ReplyFunction(self._calls, call.name, _arguments(call.arguments_json))
            encoded.append(ReplyToolCall(call.id or f"call_{uuid.uuid4().hex[:8]}", function))
            self._calls += 1
        return encoded


class GenerateEncoder(ReplyEncoder):
    """Encodes replies of /api/generate."""

    def __init__(
        self, requested: str, now: Callable[[], datetime], timings: GenerationTimings, *, with_context: bool = True
    ) -> None:
        super().__init__(requested, now, timings, PlainLines.of_generate(requested, now))
        self._with_context = with_context

    def empty(self, done_reason: str) -> Reply:
        """Returns the reply to a request without a prompt."""
        return Reply(model=self._requested, created_at=self._now(), response="", done=True, done_reason=done_reason)

    def _chunk(self, piece: Piece) -> Reply:
        return Reply(
            model=self._requested,
            created_at=self._now(),
            response=piece.text,
            thinking=piece.thinking,
            logprobs=piece.logprobs,
            done=False,
        )

    def _last(self, piece: Piece, finished: generation_pb2.Finished) -> Reply:
        return Reply(
            model=self._requested,
            created_at=self._now(),
            response=piece.text,
            thinking=piece.thinking,
            logprobs=piece.logprobs,
            done=True,
            done_reason=_REASONS.get(finished.reason, "stop"),
            context=self._timings.token_ids if self._with_context else msgspec.UNSET,
            **self._timings.metrics(finished),
        )


class ChatEncoder(ReplyEncoder):
    """Encodes replies of /api/chat."""

    def __init__(self, requested: str, now: Callable[[], datetime], timings: GenerationTimings) -> None:
        super().__init__(requested, now, timings, PlainLines.of_chat(requested, now))

    def empty(self, done_reason: str) -> Reply:
        """Returns the reply to a request without messages."""
        return Reply(
            model=self._requested,
            created_at=self._now(),
            message=AssistantMessage(""),
            done=True,
            done_reason=done_reason,
        )

    def _chunk(self, piece: Piece) -> Reply:
        return Reply(
            model=self._requested,
            created_at=self._now(),
            message=AssistantMessage(piece.text, piece.thinking, piece.calls),
            logprobs=piece.logprobs,
            done=False,
        )

    def _last(self, piece: Piece, finished: generation_pb2.Finished) -> Reply:
        return Reply(
            model=self._requested,
            created_at=self._now(),
            message=AssistantMessage(piece.text, piece.thinking, piece.calls),
            logprobs=piece.logprobs,
            done=True,
            done_reason=_REASONS.get(finished.reason, "stop"),
            **self._timings.metrics(finished),
        )


class PlainLines:
    """Makes the lines of one reply that carry text alone."""

    __slots__ = ("_after_text", "_before_text", "_before_time", "_now")

    def __init__(self, requested: str, now: Callable[[], datetime], before_text: bytes, after_text: bytes) -> None:
        """Takes the bytes between time and text, and those between text and the end of the message."""
        self._before_time = b'{"model":' + encode_json(requested) + b',"created_at":'
        self._before_text = b"," + before_text
        self._after_text = after_text + b',"done":false}\n'
        self._now = now

    @classmethod
    def of_chat(cls, requested: str, now: Callable[[], datetime]) -> PlainLines:
        """Returns the lines of /api/chat."""
        return cls(requested, now, b'"message":{"role":"assistant","content":', b"}")

    @classmethod
    def of_generate(cls, requested: str, now: Callable[[], datetime]) -> PlainLines:
        """Returns the lines of /api/generate."""
        return cls(requested, now, b'"response":', b"")

    def line(self, text: str) -> bytes:
        """Returns one line."""
        return b"".join(
            (self._before_time, encode_json(self._now()), self._before_text, encode_json(text), self._after_text)
        )


def is_plain(delta: generation_pb2.Delta) -> bool:
    """Returns whether a line shows nothing of a delta but its text."""
    return bool(delta.text) and not (delta.thinking or delta.tool_calls or delta.logprobs)


def _arguments(text: str) -> msgspec.Raw:
    """Returns the arguments as an object; anything else is the value of one key, `arguments`."""
    try:
        compact = compact_json(text.encode() or b"{}")
    except InvalidRequest:
        compact = ""
    if compact.startswith("{"):
        return msgspec.Raw(compact.encode())
    return msgspec.Raw(msgspec.json.encode({"arguments": text}))


def _logprobs(entries: Sequence[generation_pb2.TokenLogprobs]) -> list[Logprob]:
    return [
        Logprob(
            entry.token.text,
            entry.token.logprob,
            list(entry.token.bytes),
            [TopLogprob(each.text, each.logprob, list(each.bytes)) for each in entry.top],
        )
        for entry in entries
    ]
