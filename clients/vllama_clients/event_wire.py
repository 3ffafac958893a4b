"""Translates the wire's messages into the clients' events: pure functions, no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_clients.events import (
    Delta,
    Embedding,
    Event,
    Finished,
    FinishReason,
    PositionLogprobs,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)
from vllama_clients.messages import ToolCall
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from vllama_protos.v1 import embedding_pb2

FINISH_REASONS = {
    generation_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    generation_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb2.FINISH_REASON_TOOL_CALLS: FinishReason.TOOL_CALLS,
    generation_pb2.FINISH_REASON_ABORTED: FinishReason.ABORTED,
}


def event(message: generation_pb2.GenerateResponse) -> Event | None:
    """Reads one message of a stream; None for a kind that is newer than this version."""
    match message.WhichOneof("event"):
        case "started":
            return _started(message.started)
        case "delta":
            return _delta(message.delta)
        case "finished":
            return _finished(message.finished)
    return None


def embedding(vector: embedding_pb2.Vector) -> Embedding:
    """Reads one embedded text."""
    return Embedding(values=tuple(vector.values), prompt_tokens=vector.prompt_tokens)


def _started(started: generation_pb2.Started) -> Started:
    return Started(
        worker=started.worker,
        boot_id=started.boot_id,
        prompt_tokens=started.prompt_tokens,
        cached_prompt_tokens=started.cached_prompt_tokens,
        prompt_token_ids=tuple(started.prompt_token_ids),
        dropped_messages=started.dropped_messages,
    )


def _delta(delta: generation_pb2.Delta) -> Delta:
    return Delta(
        text=delta.text,
        thinking=delta.thinking,
        tool_calls=tuple(ToolCall(call.name, call.arguments_json, call.id) for call in delta.tool_calls),
        token_ids=tuple(delta.token_ids),
        logprobs=tuple(
            PositionLogprobs(_logprob(entry.token), tuple(_logprob(token) for token in entry.top))
            for entry in delta.logprobs
        ),
    )


def _logprob(token: generation_pb2.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(id=token.id, text=token.text, bytes=token.bytes, logprob=token.logprob)


def _finished(finished: generation_pb2.Finished) -> Finished:
    usage, timings = finished.usage, finished.timings
    return Finished(
        # A reason that is newer than this version still ends the stream; the text before it is whole.
        reason=FINISH_REASONS.get(finished.reason, FinishReason.STOP),
        usage=Usage(
            prompt_tokens=usage.prompt_tokens,
            cached_prompt_tokens=usage.cached_prompt_tokens,
            completion_tokens=usage.completion_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        ),
        timings=Timings(
            queue_seconds=_seconds(timings.queue),
            load_seconds=_seconds(timings.load),
            prompt_seconds=_seconds(timings.prompt),
            decode_seconds=_seconds(timings.decode),
        ),
        matched_stop=finished.matched_stop,
        migrations=finished.migrations,
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
