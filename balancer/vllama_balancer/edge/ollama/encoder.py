"""From the wire's events to Ollama's replies: chunk by chunk, or as one object.

Generate and chat tell the same story in two shapes; the story is told here once. A chunk carries
reasoning or answer or calls, not several of them. All of it is pure.

The line of the ordinary chunk, text and nothing else, put together by hand around the encoded text.

Nearly every chunk is one of these, and building a reply for each only to encode the same keys again
costs several times as much. The lines equal the general encoder's byte for byte, which a property
test holds them to.
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
    """One generation, told in one shape of reply."""

    def __init__(
        self, requested: str, now: Callable[[], datetime], timings: GenerationTimings, plain: PlainLines
    ) -> None:
        """`requested` is the model's name as the client wrote it."""
        self._requested = requested
        self._now = now
        self._timings = timings
        self._plain = plain
        self._calls = 0

    async def lines(self, events: AsyncIterable[generation_pb2.GenerateResponse]) -> AsyncIterator[bytes]:
        """Tells a generation as it goes, in lines of NDJSON: pieces, and exactly one last chunk.

        Raises what the generation raises; EngineFault when it stops without an end.
        """
        ended = False
        async for event in events:
            kind = event.WhichOneof("event")
            if kind == "delta":
                delta = event.delta
                self._timings.output(delta)
                if is_plain(delta):
                    yield self._plain.line(delta.text)
                else:
                    for piece in self._pieces(delta):
                        yield encode_line(self._chunk(piece))
            elif kind == "started":
                self._timings.started(event.started)
            elif kind == "finished":
                ended = True
                yield encode_line(self._last(Piece(), check_completed(event.finished)))
        if not ended:
            raise EngineFault("the generation stopped without saying how it ended")

    async def whole(self, events: AsyncIterable[generation_pb2.GenerateResponse]) -> Reply:
        """Tells a generation as one reply, once it has ended. Raises as `chunks` does."""
        collected = Accumulator()
        async for event in events:
            kind = event.WhichOneof("event")
            if kind == "delta":
                self._timings.output(event.delta)
            elif kind == "started":
                self._timings.started(event.started)
            collected.add(event)
        calls = self._called(collected.tool_calls)
        everything = Piece(collected.text, collected.thinking, calls, _logprobs(collected.logprobs))
        return self._last(everything, collected.finished)

    def empty(self, done_reason: str) -> Reply:
        """Answers a request that only loads or unloads a model."""
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
            pieces.append(Piece(calls=self._called(delta.tool_calls)))
        if logprobs:
            last = pieces.pop() if pieces else Piece()
            pieces.append(Piece(last.text, last.thinking, last.calls, logprobs))
        return pieces

    def _called(self, calls: Iterable[generation_pb2.ToolCall]) -> list[ReplyToolCall]:
        called = []
        for call in calls:
            function = ReplyFunction(self._calls, call.name, _arguments(call.arguments_json))
            called.append(ReplyToolCall(call.id or f"call_{uuid.uuid4().hex[:8]}", function))
            self._calls += 1
        return called


class GenerateEncoder(ReplyEncoder):
    """Tells a generation to a client of /api/generate."""

    def __init__(
        self, requested: str, now: Callable[[], datetime], timings: GenerationTimings, *, with_context: bool = True
    ) -> None:
        super().__init__(requested, now, timings, PlainLines.of_generate(requested, now))
        self._with_context = with_context

    def empty(self, done_reason: str) -> Reply:
        """Answers a request without a prompt."""
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
            context=self._timings.context() if self._with_context else msgspec.UNSET,
            **self._timings.metrics(finished),
        )


class ChatEncoder(ReplyEncoder):
    """Tells a generation to a client of /api/chat."""

    def __init__(self, requested: str, now: Callable[[], datetime], timings: GenerationTimings) -> None:
        super().__init__(requested, now, timings, PlainLines.of_chat(requested, now))

    def empty(self, done_reason: str) -> Reply:
        """Answers a request without messages."""
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


def _arguments(text: str) -> msgspec.Raw:
    """Passes the arguments on as an object; what is none is shown under a key of its own."""
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


class PlainLines:
    """Makes the plain lines of one reply."""

    __slots__ = ("_after_text", "_before_text", "_before_time", "_now")

    def __init__(self, requested: str, now: Callable[[], datetime], before_text: bytes, after_text: bytes) -> None:
        """Takes what stands between the time and the text, and between the text and the end of the message."""
        self._before_time = b'{"model":' + encode_json(requested) + b',"created_at":'
        self._before_text = b"," + before_text
        self._after_text = after_text + b',"done":false}\n'
        self._now = now

    @classmethod
    def of_chat(cls, requested: str, now: Callable[[], datetime]) -> PlainLines:
        """Makes lines of /api/chat."""
        return cls(requested, now, b'"message":{"role":"assistant","content":', b"}")

    @classmethod
    def of_generate(cls, requested: str, now: Callable[[], datetime]) -> PlainLines:
        """Makes lines of /api/generate."""
        return cls(requested, now, b'"response":', b"")

    def line(self, text: str) -> bytes:
        """Makes one line."""
        return b"".join(
            (self._before_time, encode_json(self._now()), self._before_text, encode_json(text), self._after_text)
        )


def is_plain(delta: generation_pb2.Delta) -> bool:
    """Tells whether a delta is text and nothing else that a line shows."""
    return bool(delta.text) and not (delta.thinking or delta.tool_calls or delta.logprobs)
