"""The fleet as JSON, for the page and for /health: what operators look at; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_balancer.gateway import ModelEntry
    from vllama_protos.v1 import fleet_pb2

_STATES = {
    worker_pb2.WORKER_STATE_STARTING: "starting",
    worker_pb2.WORKER_STATE_READY: "ready",
    worker_pb2.WORKER_STATE_DRAINING: "draining",
    worker_pb2.WORKER_STATE_FAILED: "failed",
}
_PHASES = {
    worker_pb2.START_PHASE_RESOLVE: "reading its configuration",
    worker_pb2.START_PHASE_DOWNLOAD: "downloading",
    worker_pb2.START_PHASE_LOAD: "loading",
    worker_pb2.START_PHASE_COMPILE: "compiling",
    worker_pb2.START_PHASE_WARM_UP: "warming up",
}


class WorkerJson(msgspec.Struct, frozen=True):
    """One worker; rates are per second, shares 0 to 1."""

    name: str
    models: list[str]
    state: str
    available: bool
    reason: str
    phase: str
    progress: float
    device: str
    simulated: bool
    streams: int
    max_streams: int
    waiting: int
    kv_cache_use: float
    prefix_hit_rate: float
    decode_tokens_per_second: float
    prefill_tokens_per_second: float
    restarts: int


class FleetJson(msgspec.Struct, frozen=True):
    """The fleet at one moment."""

    models: list[str]
    """Names of the models that can answer now."""
    queued_requests: int
    workers: list[WorkerJson]
    ttft_seconds: list[float]
    """Times to first token of the latest requests, oldest first."""


class HealthJson(msgspec.Struct, frozen=True):
    """Whether requests can be served, and what stands in the way."""

    status: str
    """"ok", "degraded" (some workers are out), "unavailable" or "draining"."""
    models: list[str]
    workers: dict[str, str]
    """State of each worker by its name, with the reason when it takes no requests."""


def fleet_json(
    fleet: fleet_pb2.ListWorkersResponse, entries: Sequence[ModelEntry], ttft_seconds: Sequence[float]
) -> FleetJson:
    """Shows the fleet."""
    return FleetJson(
        models=[entry.name for entry in entries if entry.replicas > 0],
        queued_requests=fleet.queued_requests,
        workers=[_worker(worker) for worker in fleet.workers],
        ttft_seconds=list(ttft_seconds),
    )


def health_json(fleet: fleet_pb2.ListWorkersResponse, entries: Sequence[ModelEntry], *, draining: bool) -> HealthJson:
    """Judges the fleet: it is ready while some model can answer."""
    ready = [entry.name for entry in entries if entry.replicas > 0]
    workers = {worker.name: _state_in_words(worker) for worker in fleet.workers}
    if draining:
        status = "draining"
    elif not ready:
        status = "unavailable"
    else:
        status = "ok" if all(worker.available for worker in fleet.workers) else "degraded"
    return HealthJson(status, ready, workers)


def _worker(worker: fleet_pb2.WorkerStatus) -> WorkerJson:
    description, report = worker.description, worker.report
    return WorkerJson(
        name=worker.name,
        models=list(description.models),
        state=_STATES.get(report.state, "unknown"),
        available=worker.available,
        reason=worker.reason or report.failure,
        phase=_PHASES.get(report.phase, ""),
        progress=report.progress,
        device=description.device.name or description.device.kind,
        simulated=description.simulated,
        streams=worker.leases,
        max_streams=description.max_streams,
        waiting=report.waiting,
        kv_cache_use=report.kv_cache_use,
        prefix_hit_rate=report.prefix_hit_rate,
        decode_tokens_per_second=report.decode_tokens_per_second,
        prefill_tokens_per_second=report.prefill_tokens_per_second,
        restarts=worker.restarts,
    )


def _state_in_words(worker: fleet_pb2.WorkerStatus) -> str:
    state = _STATES.get(worker.report.state, "unknown")
    reason = worker.reason or worker.report.failure
    if reason.startswith(f"is {state}"):
        return reason.removeprefix("is ")
    return state if worker.available or not reason else f"{state}: {reason}"
