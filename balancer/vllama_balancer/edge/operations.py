"""What operators and load balancers ask for: health, metrics, the fleet, and the dashboard."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest

from vllama_balancer.edge.body import json_response
from vllama_balancer.edge.request_stats import STATS
from vllama_balancer.keys import Scope
from vllama_protos.v1 import fleet_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prometheus_client import CollectorRegistry

    from vllama_balancer.edge.context import HandlerContext
    from vllama_balancer.edge.metrics import EdgeMetrics
    from vllama_balancer.gateway import FleetView, ModelEntry

_STATES = {
    worker_pb2.WORKER_STATE_STARTING: "starting",
    worker_pb2.WORKER_STATE_READY: "ready",
    worker_pb2.WORKER_STATE_DRAINING: "draining",
    worker_pb2.WORKER_STATE_SLEEPING: "asleep",
    worker_pb2.WORKER_STATE_FAILED: "failed",
}

_PHASES = {
    worker_pb2.START_PHASE_RESOLVE: "reading its configuration",
    worker_pb2.START_PHASE_DOWNLOAD: "downloading",
    worker_pb2.START_PHASE_LOAD: "loading",
    worker_pb2.START_PHASE_COMPILE: "compiling",
    worker_pb2.START_PHASE_WARM_UP: "warming up",
}


_DEATHS_TO_SHOW = 2
"""A worker that serves again after one death needs no attention; one that dies again and again does."""


class Dashboard:
    """The dashboard: one HTML file, and headers that forbid any other script or style in it."""

    def __init__(self) -> None:
        self.body = resources.files("vllama_balancer.edge.dashboard").joinpath("index.html").read_bytes()
        """HTML with its style and its script."""
        script, style = _hash_within(self.body, b"script"), _hash_within(self.body, b"style")
        policy = f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; base-uri 'none'"
        self.headers = {
            "Content-Security-Policy": f"{policy}; form-action 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Vary": "Accept",
        }


def _hash_within(page: bytes, tag: bytes) -> str:
    """Returns the CSP hash of the page's only element with this tag."""
    text = page.partition(b"<%b>" % tag)[2].partition(b"</%b>" % tag)[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"


class Operations:
    """Handlers beside the dialects."""

    def __init__(self, context: HandlerContext, fleet: FleetView, metrics: EdgeMetrics) -> None:
        self._context = context
        self._fleet = fleet
        self._metrics = metrics
        self._dashboard = Dashboard()
        register_health_metric(metrics.registry, lambda: self._health().can_serve)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.root),
            web.get("/health", self.health),
            web.get("/health/live", self.live),
            web.get("/health/ready", self.ready),
            web.get("/metrics", self.metrics),
            web.get("/fleet", self.fleet),
        ]

    async def root(self, request: web.Request) -> web.Response:
        """GET /: the dashboard for a browser, Ollama's line for any other client."""
        if "text/html" in request.headers.get("Accept", ""):
            page = self._dashboard
            return web.Response(body=page.body, content_type="text/html", charset="utf-8", headers=page.headers)
        return web.Response(text="Ollama is running", headers={"Vary": "Accept"})

    async def health(self, request: web.Request) -> web.Response:
        """GET /health: 200 while a model can answer or would be loaded; else, and while draining, 503.

        Models and failures are for callers with a key, and for those who may list the fleet.
        """
        health, caller = self._health(), request[STATS].caller
        status = 200 if health.can_serve else 503
        if caller.owner or caller.may(Scope.FLEET):
            return json_response(health, status)
        return json_response({"status": "ok" if health.can_serve else "unavailable"}, status)

    async def live(self, request: web.Request) -> web.Response:
        """GET /health/live: 200 as long as the process replies at all."""
        return json_response({"status": "ok"})

    async def ready(self, request: web.Request) -> web.Response:
        """GET /health/ready: 503 as /health, and while nearly all connections are taken."""
        is_ready = self._health().can_serve and not self._context.is_crowded
        return json_response({"status": "ok" if is_ready else "unavailable"}, 200 if is_ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /metrics: Prometheus."""
        text = generate_latest(self._metrics.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def fleet(self, request: web.Request) -> web.Response:
        """GET /fleet: the data of the dashboard."""
        fleet, models = self._fleet.fleet(), self._context.gateway.models()
        return json_response(fleet_json(fleet, models, self._metrics.recent_ttft_seconds))

    def _health(self) -> HealthJson:
        return health_json(self._fleet.fleet(), self._context.gateway.models(), draining=self._context.limits.draining)


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
    deaths: int
    last_death: str


class FleetJson(msgspec.Struct, frozen=True):
    """The fleet at one moment."""

    models: list[str]
    """Names of the models that can answer now."""
    queued_requests: int
    workers: list[WorkerJson]
    ttft_seconds: list[float]
    """Times to first token of the latest requests, oldest first."""
    loading: dict[str, str]
    """Models that are being loaded, with their progress."""
    asleep: list[str]
    """Sleeping models: a request wakes them within seconds."""


class HealthJson(msgspec.Struct, frozen=True):
    """Whether requests can be served, and the state of each worker."""

    status: str
    """ok, degraded (some workers are out), idle (a request loads its model), unavailable or draining."""
    models: list[str]
    workers: dict[str, str]
    """State of each worker by its name, with the reason when it accepts no requests."""
    loading: dict[str, str]
    """Models that are being loaded, with their progress."""
    asleep: list[str]
    """Sleeping models: a request wakes them within seconds."""

    @property
    def can_serve(self) -> bool:
        """Whether a request would be served, possibly after a load."""
        return self.status in ("ok", "degraded", "idle")


def fleet_json(
    fleet: fleet_pb2.ListWorkersResponse, entries: Sequence[ModelEntry], ttft_seconds: Sequence[float]
) -> FleetJson:
    return FleetJson(
        models=[entry.name for entry in entries if entry.replicas > 0],
        queued_requests=fleet.queued_requests,
        workers=[_worker(worker) for worker in fleet.workers],
        ttft_seconds=list(ttft_seconds),
        loading=_loading(fleet),
        asleep=_asleep(fleet),
    )


def health_json(fleet: fleet_pb2.ListWorkersResponse, entries: Sequence[ModelEntry], *, draining: bool) -> HealthJson:
    """Returns the health of the fleet: it can serve while one model can answer."""
    ready = [entry.name for entry in entries if entry.replicas > 0]
    workers = {worker.name: _state_in_words(worker) for worker in fleet.workers}
    return HealthJson(_status(fleet, bool(ready), draining), ready, workers, _loading(fleet), _asleep(fleet))


def _status(fleet: fleet_pb2.ListWorkersResponse, is_ready: bool, draining: bool) -> str:
    if draining:
        return "draining"
    # Workers that load on demand or sleep are not out of order.
    out = [worker for worker in fleet.workers if not worker.available and not _is_moving(worker, fleet)]
    if is_ready:
        return "degraded" if out else "ok"
    return "idle" if fleet.loads_on_demand and not out else "unavailable"


def _is_moving(worker: fleet_pb2.WorkerStatus, fleet: fleet_pb2.ListWorkersResponse) -> bool:
    state = worker.report.state
    return state == worker_pb2.WORKER_STATE_SLEEPING or (
        fleet.loads_on_demand and state in (worker_pb2.WORKER_STATE_STARTING, worker_pb2.WORKER_STATE_DRAINING)
    )


def _loading(fleet: fleet_pb2.ListWorkersResponse) -> dict[str, str]:
    moving = (fleet_pb2.MODEL_STATE_WAITING, fleet_pb2.MODEL_STATE_LOADING)
    workers = {worker.name: _state_in_words(worker) for worker in fleet.workers}
    return {model.model: _progress(model, workers) for model in fleet.models if model.state in moving}


def _asleep(fleet: fleet_pb2.ListWorkersResponse) -> list[str]:
    return [model.model for model in fleet.models if model.state == fleet_pb2.MODEL_STATE_SLEEPING]


def _progress(model: fleet_pb2.ModelStatus, workers: Mapping[str, str]) -> str:
    """Returns the progress of a load: "starting: loading weights 40% on worker-0; 3 requests wait"."""
    stages = [f"{workers[name]} on {name}" for name in model.workers if name in workers]
    waiting = {0: [], 1: ["1 request waits"]}.get(model.requests, [f"{model.requests} requests wait"])
    return "; ".join([", ".join(stages) or "waits for a worker that is in use", *waiting])


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
        deaths=worker.deaths,
        last_death=worker.last_death,
    )


def _state_in_words(worker: fleet_pb2.WorkerStatus) -> str:
    state = _STATES.get(worker.report.state, "unknown")
    reason = worker.reason or worker.report.failure
    if reason.startswith(f"is {state}"):
        return reason.removeprefix("is ")
    if worker.available or not reason:
        return state if worker.deaths < _DEATHS_TO_SHOW else f"{state}, {_deaths_in_words(worker)}"
    return f"{state}: {reason}"


def _deaths_in_words(worker: fleet_pb2.WorkerStatus) -> str:
    return f"died {worker.deaths} times, the last time: {worker.last_death}"


def register_health_metric(registry: CollectorRegistry, can_serve: Callable[[], bool]) -> None:
    """Registers a gauge of /health's verdict, so that alerts can tell an idle fleet from one out of order."""
    gauge = Gauge("vllama_can_serve", "Whether /health says that requests can be served: 1 or 0.", registry=registry)
    gauge.set_function(lambda: float(can_serve()))
