"""From the engine to the wire: the events of a generation.

Deltas are made once for every engine output of every stream, so what fills them sets only what is
there and builds nothing in between.

From the engine to the wire: what a worker is and how loaded it is.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from vllama_protos.v1 import generation_pb2, worker_pb2
from vllama_protos.v1 import generation_pb2 as pb
from vllama_server.engine.description import Capability
from vllama_server.engine.events import Accepted, Chunk, FinishReason
from vllama_server.engine.protocol import StartPhase
from vllama_server.lifecycle import State

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from vllama_server.engine.description import EngineDescription, ModelInfo
    from vllama_server.engine.events import Completed, GenerationEvent, PositionLogprobs, TokenLogprob
    from vllama_server.engine.protocol import EngineLoad
    from vllama_server.engine.requests import Sampling
    from vllama_server.identity import WorkerIdentity
    from vllama_server.lifecycle import Lifecycle


FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
    FinishReason.ABORTED: pb.FINISH_REASON_ABORTED,
}


def response(event: GenerationEvent, identity: WorkerIdentity, request: pb.GenerateRequest) -> pb.GenerateResponse:
    """Converts any event of the generation that was requested."""
    if type(event) is Chunk:
        return delta(event)
    if type(event) is Accepted:
        return started(event, identity, with_prompt=request.return_prompt_token_ids)
    assert not isinstance(event, Chunk | Accepted)
    return finished(event)


def started(event: Accepted, identity: WorkerIdentity, *, with_prompt: bool) -> pb.GenerateResponse:
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


CAPABILITIES = {
    Capability.COMPLETION: worker_pb2.CAPABILITY_COMPLETION,
    Capability.CHAT: worker_pb2.CAPABILITY_CHAT,
    Capability.TOOLS: worker_pb2.CAPABILITY_TOOLS,
    Capability.THINKING: worker_pb2.CAPABILITY_THINKING,
    Capability.VISION: worker_pb2.CAPABILITY_VISION,
    Capability.INSERT: worker_pb2.CAPABILITY_INSERT,
    Capability.EMBEDDING: worker_pb2.CAPABILITY_EMBEDDING,
}
STATES = {
    State.STARTING: worker_pb2.WORKER_STATE_STARTING,
    State.READY: worker_pb2.WORKER_STATE_READY,
    State.SLEEPING: worker_pb2.WORKER_STATE_SLEEPING,
    State.DRAINING: worker_pb2.WORKER_STATE_DRAINING,
    State.FAILED: worker_pb2.WORKER_STATE_FAILED,
}
PHASES = {
    StartPhase.RESOLVE: worker_pb2.START_PHASE_RESOLVE,
    StartPhase.DOWNLOAD: worker_pb2.START_PHASE_DOWNLOAD,
    StartPhase.LOAD: worker_pb2.START_PHASE_LOAD,
    StartPhase.COMPILE: worker_pb2.START_PHASE_COMPILE,
    StartPhase.WARM_UP: worker_pb2.START_PHASE_WARM_UP,
}


def description(
    identity: WorkerIdentity, versions: dict[str, str], engine: EngineDescription | None
) -> worker_pb2.DescribeResponse:
    """Describes a worker; `engine` is None until it has started."""
    response = worker_pb2.DescribeResponse(
        worker=identity.worker, boot_id=identity.boot_id, models=identity.models, versions=versions, can_relay=True
    )
    if engine is None:
        return response
    response.capabilities.extend(sorted(CAPABILITIES[capability] for capability in engine.capabilities))
    response.context_length = engine.context_length
    response.max_streams = engine.max_streams
    response.kv_cache_tokens = engine.kv_cache_tokens
    response.block_tokens = engine.block_tokens
    response.device.kind = engine.device.kind
    response.device.name = engine.device.name
    response.device.memory_bytes = engine.device.memory_bytes
    response.versions.update(engine.versions)
    response.simulated = engine.simulated
    response.can_sleep = engine.can_sleep
    response.model_info.CopyFrom(model_info(engine.model_info))
    return response


def model_info(info: ModelInfo) -> worker_pb2.ModelInfo:
    """Converts what a model's files say; the field names are the same on both sides."""
    values = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
    del values["default_sampling"]
    return worker_pb2.ModelInfo(**values, default_sampling=default_sampling(info.default_sampling))


def default_sampling(options: Sampling) -> generation_pb2.Sampling:
    """Converts sampling options; None stays unset."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return generation_pb2.Sampling(**{name: value for name, value in values.items() if value is not None})


def report(
    identity: WorkerIdentity, lifecycle: Lifecycle, load: EngineLoad, uptime_seconds: float
) -> worker_pb2.WorkerReport:
    """Reports the state and the load of a worker at one moment."""
    message = worker_pb2.WorkerReport(
        worker=identity.worker,
        boot_id=identity.boot_id,
        state=STATES[lifecycle.state],
        running=load.running,
        waiting=load.waiting,
        kv_cache_use=load.kv_cache_use,
        queued_prompt_tokens=load.queued_prompt_tokens,
        prefill_tokens_per_second=load.prefill_tokens_per_second,
        decode_tokens_per_second=load.decode_tokens_per_second,
        prefix_hit_rate=load.prefix_hit_rate,
    )
    if lifecycle.state is State.STARTING:
        message.phase = PHASES[lifecycle.phase]
        message.progress = lifecycle.progress
    message.failure = lifecycle.failure
    set_duration(message.step, load.step_seconds)
    if load.last_step_age_seconds is not None:
        set_duration(message.last_step_age, load.last_step_age_seconds)
    set_duration(message.uptime, uptime_seconds)
    return message
