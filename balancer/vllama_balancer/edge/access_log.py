"""Writes one line per request: who, what, which worker, how many tokens, how fast; never any text."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.edge.trace import TRACE, Trace, request_id_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllama_balancer.edge.metrics import EdgeMetrics

_log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""The status that is logged when nobody was left to answer."""


class AccessLog:
    """Opens a trace for every request, and closes it in the log and the metrics."""

    def __init__(self, metrics: EdgeMetrics) -> None:
        self._metrics = metrics

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Runs around everything else."""
        trace = Trace(request_id_of(request.headers.get("X-Request-Id")), client=request.remote or "local")
        request[TRACE] = trace
        status = 500
        self._metrics.in_flight.inc()
        try:
            response = await handler(request)
            status = response.status
            return response
        except (asyncio.CancelledError, ConnectionError):
            status = CLIENT_GONE
            raise
        finally:
            self._metrics.in_flight.dec()
            self._record(request, trace, status)

    def _record(self, request: web.Request, trace: Trace, status: int) -> None:
        elapsed_seconds = trace.elapsed_ns() / 1e9
        ttft_seconds = trace.ttft_seconds
        route = request.match_info.route.resource
        self._metrics.record(route.canonical if route else "", status, elapsed_seconds, ttft_seconds)
        if not _log.isEnabledFor(logging.INFO):
            return
        _log.info(
            "%s %s %s %d request_id=%s client=%s model=%s worker=%s prompt_tokens=%d completion_tokens=%d "
            "ttft_ms=%s duration_ms=%.1f migrations=%d",
            request.method,
            request.path,
            f"HTTP/{request.version.major}.{request.version.minor}",
            status,
            trace.request_id,
            trace.client,
            trace.model or "-",
            trace.worker or "-",
            trace.prompt_tokens,
            trace.completion_tokens,
            "-" if ttft_seconds is None else f"{ttft_seconds * 1e3:.1f}",
            elapsed_seconds * 1e3,
            trace.migrations,
        )
