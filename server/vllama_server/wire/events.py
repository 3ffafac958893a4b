"""From the engine to the wire: the events of a generation.

Deltas are made once for every engine output of every stream, so what fills them sets only what is
there and builds nothing in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.engine.events import Accepted, Chunk, FinishReason

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from vllama_server.engine.events import Completed, GenerationEvent, PositionLogprobs, TokenLogprob
    from vllama_server.identity import Identity

FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
    FinishReason.ABORTED: pb.FINISH_REASON_ABORTED,
}


def response(event: GenerationEvent, identity: Identity, request: pb.GenerateRequest) -> pb.GenerateResponse:
    """Converts any event of the generation that was requested."""
    if type(event) is Chunk:
        return delta(event)
    if type(event) is Accepted:
        return started(event, identity, with_prompt=request.return_prompt_token_ids)
    assert not isinstance(event, Chunk | Accepted)
    return finished(event)


def started(event: Accepted, identity: Identity, *, with_prompt: bool) -> pb.GenerateResponse:
    """Converts the first event; `with_prompt` adds the ids of the rendered prompt."""
    return pb.GenerateResponse(
        started=pb.Started(
            worker=identity.worker,
            boot_id=identity.boot_id,
            prompt_tokens=len(event.prompt_token_ids),
            cached_prompt_tokens=event.cached_prompt_tokens,
            prompt_token_ids=event.prompt_token_ids if with_prompt else (),
            dropped_messages=event.dropped_messages,
        )
    )


def delta(event: Chunk) -> pb.GenerateResponse:
    """Converts new output."""
    converted = pb.GenerateResponse()
    fill_delta(converted.delta, event)
    return converted


def fill_delta(message: pb.Delta, event: Chunk) -> None:
    """Writes new output into an empty delta."""
    if event.text:
        message.text = event.text
    else:
        # Marks the event as a delta even when the chunk is empty.
        message.SetInParent()
    message.token_ids.extend(event.token_ids)
    if event.thinking:
        message.thinking = event.thinking
    for call in event.tool_calls:
        message.tool_calls.add(id=call.id, name=call.name, arguments_json=call.arguments_json)
    for entry in event.logprobs:
        message.logprobs.append(_position(entry))


def finished(event: Completed) -> pb.GenerateResponse:
    """Converts the last event."""
    response = pb.GenerateResponse(
        finished=pb.Finished(
            reason=FINISH_REASONS[event.reason],
            matched_stop=event.matched_stop,
            usage=pb.Usage(
                prompt_tokens=event.prompt_tokens,
                cached_prompt_tokens=event.cached_prompt_tokens,
                completion_tokens=event.completion_tokens,
                reasoning_tokens=event.reasoning_tokens,
            ),
        )
    )
    timings = response.finished.timings
    set_duration(timings.queue, event.queue_seconds)
    set_duration(timings.load, 0.0)
    set_duration(timings.prompt, event.prefill_seconds)
    set_duration(timings.decode, event.decode_seconds)
    return response


def set_duration(duration: Duration, seconds: float) -> None:
    """Sets a duration of 0 or more; what clocks of several processes make negative counts as 0."""
    duration.FromNanoseconds(max(0, round(seconds * 1e9)))


def _position(entry: PositionLogprobs) -> pb.TokenLogprobs:
    return pb.TokenLogprobs(token=_token(entry.token), top=[_token(token) for token in entry.top])


def _token(token: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(id=token.id, text=token.text, bytes=token.bytes, logprob=token.logprob)
