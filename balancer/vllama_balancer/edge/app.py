"""Puts the HTTP front door together: dialects, middlewares, limits.

Serve the application through `serving.EdgeServer`: it cancels handlers when their client goes
away, which is what ends a generation that nobody reads any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry

from vllama_balancer.edge.access_log import AccessLog
from vllama_balancer.edge.anthropic import DIALECT as ANTHROPIC
from vllama_balancer.edge.authentication import Authentication
from vllama_balancer.edge.config import EdgeConfig
from vllama_balancer.edge.edge import Edge, system_now
from vllama_balancer.edge.faults import Faults
from vllama_balancer.edge.guard import Guard, Hosts, Origins, cors_headers, this_machine
from vllama_balancer.edge.metrics import EdgeMetrics
from vllama_balancer.edge.ollama import DIALECT as OLLAMA
from vllama_balancer.edge.openai import DIALECT as OPENAI
from vllama_balancer.edge.operations import NoFleetView, Operations
from vllama_balancer.edge.paths import add_tidy_paths
from vllama_balancer.edge.trace import TRACE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from vllama_balancer.edge.dialect import Dialect
    from vllama_balancer.edge.guard import Machine
    from vllama_balancer.gateway import FleetView, Gateway, Management, Residency
    from vllama_balancer.keys import ApiKeys

DIALECTS: tuple[Dialect, ...] = (OLLAMA, OPENAI, ANTHROPIC)
"""Every API that is served."""

EDGE: web.AppKey[Edge] = web.AppKey("edge", Edge)
"""Where an application keeps its edge."""


def build_app(
    gateway: Gateway,
    *,
    config: EdgeConfig | None = None,
    registry: CollectorRegistry | None = None,
    fleet: FleetView | None = None,
    residency: Residency | None = None,
    management: Management | None = None,
    keys: ApiKeys | None = None,
    machine: Machine | None = None,
    now: Callable[[], datetime] = system_now,
    dialects: Sequence[Dialect] = DIALECTS,
) -> web.Application:
    """Builds the application.

    `registry` holds what /metrics shows; the edge adds its own collectors to it. `fleet` feeds
    the page and /health. `residency` is told of keep_alive; models are pinned without it.
    `management` installs and removes models; they are fixed without it. With `keys` every caller
    needs one. `machine` is what this machine is called; asked for when None. `now` is the clock
    of timestamps in replies.
    """
    edge = Edge(gateway, config or EdgeConfig(), residency=residency, management=management, now=now)
    metrics = EdgeMetrics(registry or CollectorRegistry())
    guard = Guard(Origins(edge.config.origins), Hosts(machine or this_machine()) if edge.config.loopback_only else None)
    access_log = AccessLog(metrics, edge.config.trusted_proxies)
    app = web.Application(
        # From the outside in: what is refused is logged, and every refusal has its dialect's shape.
        middlewares=[
            access_log.middleware,
            Faults(dialects).middleware,
            guard.middleware,
            Authentication(keys).middleware,
        ],
        client_max_size=edge.config.max_body_bytes,
    )
    app[EDGE] = edge
    app.router.add_routes(Operations(edge, fleet or NoFleetView(), metrics).routes())
    for dialect in dialects:
        app.router.add_routes(dialect.routes(edge))
    add_tidy_paths(app.router)
    app.on_response_prepare.append(_add_headers)
    app.on_cleanup.append(access_log.close)
    return app


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Headers of every reply, streams and errors included."""
    response.headers["Server"] = f"vllama/{request.app[EDGE].config.product_version}"
    response.headers.update(cors_headers(request))
    trace = request.get(TRACE)
    if trace is None:
        return
    response.headers["X-Request-Id"] = trace.request_id
    if trace.worker:
        response.headers["X-Vllama-Worker"] = trace.worker
    if trace.reason:
        response.headers["X-Vllama-Reason"] = trace.reason
