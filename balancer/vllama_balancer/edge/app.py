"""The aiohttp application of the edge: dialects, middlewares, limits.

Serve it with `server.EdgeServer`, which cancels a handler when its client disconnects: that ends the generation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry

from vllama_balancer.callers import Access
from vllama_balancer.client_limits import ClientLimits
from vllama_balancer.edge.access_log import AccessLog
from vllama_balancer.edge.anthropic import DIALECT as ANTHROPIC
from vllama_balancer.edge.body import BodyBudget
from vllama_balancer.edge.config import EdgeConfig
from vllama_balancer.edge.context import HandlerContext, system_now
from vllama_balancer.edge.dialect import add_normalized_routes
from vllama_balancer.edge.error_middleware import ErrorMiddleware
from vllama_balancer.edge.metrics import EdgeMetrics
from vllama_balancer.edge.ollama import DIALECT as OLLAMA
from vllama_balancer.edge.openai import DIALECT as OPENAI
from vllama_balancer.edge.operations import Operations
from vllama_balancer.edge.request_stats import STATS
from vllama_balancer.edge.security import AllowedHosts, AllowedOrigins, Authorization, Guard, cors_headers, this_host
from vllama_balancer.errors import ShuttingDown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from vllama_balancer.edge.dialect import Dialect
    from vllama_balancer.edge.security import HostNames
    from vllama_balancer.gateway import FleetView, Gateway, Management, Residency

DIALECTS: tuple[Dialect, ...] = (OLLAMA, OPENAI, ANTHROPIC)
"""Every API that is served."""

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that begin no work."""

CONTEXT: web.AppKey[HandlerContext] = web.AppKey("context", HandlerContext)
"""Key of an application's context."""


def build_app(
    gateway: Gateway,
    *,
    fleet: FleetView,
    config: EdgeConfig | None = None,
    registry: CollectorRegistry | None = None,
    residency: Residency | None = None,
    management: Management | None = None,
    access: Access | None = None,
    limits: ClientLimits | None = None,
    host_names: HostNames | None = None,
    now: Callable[[], datetime] = system_now,
    dialects: Sequence[Dialect] = DIALECTS,
) -> web.Application:
    """Builds the application.

    `fleet` feeds the dashboard and /health. `registry` holds the metrics of /metrics; the edge adds its own.
    `residency` applies keep_alive; without it models are pinned. `management` installs and removes models; without it
    they are fixed. `access` says what callers may do; without it no key is required. `limits` are shared with the
    other front door. `host_names` are those of this machine, read from the operating system when None. `now` is the
    clock of timestamps in replies.
    """
    limits = limits or ClientLimits()
    access = access or Access()
    context = HandlerContext(
        gateway,
        config or EdgeConfig(),
        limits=limits,
        residency=residency,
        management=management,
        now=now,
        is_proxy=access.is_proxy,
    )
    metrics = EdgeMetrics(registry or CollectorRegistry())
    guard = Guard(
        AllowedOrigins(context.config.origins),
        AllowedHosts(host_names or this_host()) if context.config.loopback_only else None,
    )
    access_log = AccessLog(metrics, access)
    app = web.Application(
        # From the outside in: a refused request is logged, and every refusal has its dialect's shape.
        middlewares=[
            access_log.middleware,
            ErrorMiddleware(dialects).middleware,
            guard.middleware,
            Authorization(access).middleware,
            _refuse_while_draining,
            BodyBudget(limits.bytes).middleware,
        ],
        client_max_size=context.config.max_body_bytes,
    )
    app[CONTEXT] = context
    app.router.add_routes(Operations(context, fleet, metrics).routes())
    for dialect in dialects:
        app.router.add_routes(dialect.routes(context))
    add_normalized_routes(app.router)
    app.on_response_prepare.append(_add_headers)
    app.on_cleanup.append(access_log.close)
    return app


@web.middleware
async def _refuse_while_draining(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Refuses what would begin work while the process ends. Raises ShuttingDown."""
    if request.app[CONTEXT].limits.draining and request.method not in _READING:
        raise ShuttingDown
    return await handler(request)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Sets the headers of every reply, streams and errors included; while the process ends, it ends its connection."""
    if request.app[CONTEXT].limits.draining:
        response.force_close()
        response.headers["Connection"] = "close"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Server"] = f"vllama/{request.app[CONTEXT].config.product_version}"
    response.headers.update(cors_headers(request))
    stats = request.get(STATS)
    if stats is None:
        return
    response.headers["X-Request-Id"] = stats.request_id
    if stats.worker:
        response.headers["X-Vllama-Worker"] = stats.worker
    if stats.reason:
        response.headers["X-Vllama-Reason"] = stats.reason
