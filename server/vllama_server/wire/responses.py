"""Messages about the worker itself: its description, and its state and load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_protos.v1 import worker_pb2 as pb
from vllama_server.engine.events import set_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllama_server.engine.protocol import EngineLoad
    from vllama_server.identity import WorkerIdentity
    from vllama_server.lifecycle import Lifecycle


def description(
    identity: WorkerIdentity, versions: Mapping[str, str], engine: pb.DescribeResponse | None
) -> pb.DescribeResponse:
    """Returns the description of a worker; `engine` is None until it has started."""
    response = pb.DescribeResponse(
        worker=identity.worker, boot_id=identity.boot_id, models=identity.models, versions=versions, can_relay=True
    )
    if engine is not None:
        response.MergeFrom(engine)
    return response


def report(identity: WorkerIdentity, lifecycle: Lifecycle, load: EngineLoad, uptime_seconds: float) -> pb.WorkerReport:
    """Returns the state and the load of a worker at one moment."""
    message = pb.WorkerReport(
        worker=identity.worker,
        boot_id=identity.boot_id,
        state=lifecycle.state,
        running=load.running,
        waiting=load.waiting,
        kv_cache_use=load.kv_cache_use,
        queued_prompt_tokens=load.queued_prompt_tokens,
        prefill_tokens_per_second=load.prefill_tokens_per_second,
        decode_tokens_per_second=load.decode_tokens_per_second,
        prefix_hit_rate=load.prefix_hit_rate,
    )
    if lifecycle.state == pb.WORKER_STATE_STARTING:
        message.phase = lifecycle.phase
        message.progress = lifecycle.progress
    message.failure = lifecycle.failure
    set_duration(message.step, load.step_seconds)
    if load.last_step_age_seconds is not None:
        set_duration(message.last_step_age, load.last_step_age_seconds)
    set_duration(message.uptime, uptime_seconds)
    return message
