"""Writes one line per request: who, what, which worker, how many tokens, how fast; never any text.

Whom a full queue has turned away is summed up in `refusal_log.py`, and has a line at debug level only.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.edge.client_address import client_address
from vllama_balancer.edge.refusal_log import RefusalLog
from vllama_balancer.edge.trace import TRACE, Trace, request_id_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from vllama_balancer.edge.client_address import Network
    from vllama_balancer.edge.metrics import EdgeMetrics

_log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""The status that is logged when nobody was left to answer."""


class AccessLog:
    """Opens a trace for every request, and closes it in the log and the metrics."""

    def __init__(self, metrics: EdgeMetrics, proxies: Sequence[Network] = ()) -> None:
        """`proxies` are those whose word about the client's address counts."""
        self._metrics = metrics
        self._proxies = proxies
        self._refusals = RefusalLog(_log)

    async def close(self, _: web.Application) -> None:
        """Writes what is left to write."""
        self._refusals.close()

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Runs around everything else."""
        client = client_address(request.remote, request.headers, self._proxies)
        trace = Trace(request_id_of(request.headers.get("X-Request-Id")), client=client)
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
        route = request.match_info.route.resource
        elapsed_seconds = trace.elapsed_ns() / 1e9
        self._metrics.record(route.canonical if route else "", status, elapsed_seconds, trace.ttft_seconds)
        if trace.is_refused:
            self._refusals.add(trace.client)
        level = logging.DEBUG if trace.is_refused else logging.INFO
        if not _log.isEnabledFor(level):
            return
        facts = _facts(trace, elapsed_seconds)
        rendered = " ".join(f"{name}={'-' if value in (None, '') else value}" for name, value in facts.items())
        # The path as it came, still encoded: a decoded one could break the line and forge another.
        path = request.rel_url.raw_path
        extra = {"facts": {**facts, "status": status}}
        _log.log(level, "%s %s %d %s", request.method, path, status, rendered, extra=extra)


def _facts(trace: Trace, elapsed_seconds: float) -> dict[str, object]:
    """What a line tells; in `extra` as well, for logs that keep fields apart."""
    ttft_seconds = trace.ttft_seconds
    return {
        "request_id": trace.request_id,
        "client": trace.client,
        "model": trace.model,
        "worker": trace.worker,
        "prompt_tokens": trace.prompt_tokens,
        "completion_tokens": trace.completion_tokens,
        "ttft_ms": None if ttft_seconds is None else round(ttft_seconds * 1e3, 1),
        "duration_ms": round(elapsed_seconds * 1e3, 1),
        "migrations": trace.migrations,
    }
