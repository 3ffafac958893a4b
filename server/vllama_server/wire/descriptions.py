"""From the engine to the wire: what a worker is and how loaded it is."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from vllama_protos.v1 import generation_pb2, worker_pb2
from vllama_server.engine.description import Capability
from vllama_server.engine.protocol import StartPhase
from vllama_server.lifecycle import State
from vllama_server.wire.events import set_duration

if TYPE_CHECKING:
    from vllama_server.engine.description import EngineDescription, ModelInfo
    from vllama_server.engine.protocol import EngineLoad
    from vllama_server.engine.requests import Sampling
    from vllama_server.identity import Identity
    from vllama_server.lifecycle import Lifecycle

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
    identity: Identity, versions: dict[str, str], engine: EngineDescription | None
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
    identity: Identity, lifecycle: Lifecycle, load: EngineLoad, uptime_seconds: float
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
