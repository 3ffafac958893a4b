"""Builders of a generation's events, which engines yield as messages of the wire.

A delta is built once for every output of the engine and is not copied into another type on its way to the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_protos.v1 import generation_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.duration_pb2 import Duration


def started(
    request: pb.GenerateRequest,
    prompt_token_ids: Sequence[int],
    *,
    cached_prompt_tokens: int = 0,
    dropped_messages: int = 0,
) -> pb.GenerateResponse:
    """Returns the first event without the worker's identity, with the prompt's ids if the request asks for them."""
    return pb.GenerateResponse(
        started=pb.Started(
            prompt_tokens=len(prompt_token_ids),
            cached_prompt_tokens=cached_prompt_tokens,
            prompt_token_ids=prompt_token_ids if request.return_prompt_token_ids else (),
            dropped_messages=dropped_messages,
        )
    )


def delta(
    text: str = "",
    token_ids: Sequence[int] = (),
    *,
    thinking: str = "",
    tool_calls: Sequence[pb.ToolCall] = (),
    logprobs: Iterable[pb.TokenLogprobs] = (),
) -> pb.GenerateResponse:
    """Returns new output. Sets only what is there: this runs for every output of every stream."""
    event = pb.GenerateResponse()
    message = event.delta
    message.text = text  # also when empty: it marks the event as a delta
    message.token_ids.extend(token_ids)
    if thinking:
        message.thinking = thinking
    if tool_calls:
        message.tool_calls.extend(tool_calls)
    if logprobs:
        message.logprobs.extend(logprobs)
    return event


def finished(
    reason: pb.FinishReason,
    *,
    prompt_tokens: int,
    completion_tokens: int,
    cached_prompt_tokens: int = 0,
    reasoning_tokens: int = 0,
    matched_stop: str = "",
    queue_seconds: float = 0.0,
    prefill_seconds: float = 0.0,
    decode_seconds: float = 0.0,
) -> pb.GenerateResponse:
    """Returns the last event. `completion_tokens` includes resumed ones; the times do not overlap."""
    event = pb.GenerateResponse(
        finished=pb.Finished(
            reason=reason,
            matched_stop=matched_stop,
            usage=pb.Usage(
                prompt_tokens=prompt_tokens,
                cached_prompt_tokens=cached_prompt_tokens,
                completion_tokens=completion_tokens,
                reasoning_tokens=reasoning_tokens,
            ),
        )
    )
    timings = event.finished.timings
    set_duration(timings.queue, queue_seconds)
    set_duration(timings.load, 0.0)
    set_duration(timings.prompt, prefill_seconds)
    set_duration(timings.decode, decode_seconds)
    return event


def set_duration(duration: Duration, seconds: float) -> None:
    """Sets a duration; a time that is negative because it comes from several processes' clocks counts as 0."""
    duration.FromNanoseconds(max(0, round(seconds * 1e9)))
