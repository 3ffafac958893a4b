"""The access log: one line per request with client, model, worker, tokens and times; never any text.

    POST /api/chat 200 28/5120 ms 1757+128 tokens qwen2.5:7b worker-0 10.0.0.7 4365aaa4

That is TTFT and whole time, prompt and completion tokens, and the start of the request id. Parts without a value are
left out. The JSON log has all fields, whole.

Requests that a full queue refuses have a line at debug level only, and one summary a second: in a burst, writing their
lines would take longer than the refusals themselves.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.callers import Caller
from vllama_balancer.edge.request_stats import STATS, RequestStats, request_id_of
from vllama_balancer.edge.security import headers_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllama_balancer.callers import Access
    from vllama_balancer.edge.metrics import EdgeMetrics

_log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""The status that is logged when the client has disconnected."""

SUMMARY_SECONDS = 1.0

_LONGEST_PATH = 60
_SHOWN_OF_ID = 8
"""Characters of a request id that a line shows; enough to find it in the JSON log or a worker's log file."""


class AccessLog:
    """The outermost middleware: collects the stats of a request, then logs and counts them."""

    def __init__(self, metrics: EdgeMetrics, access: Access) -> None:
        self._metrics = metrics
        self._access = access
        self._refusals = RefusalLog(_log)

    async def close(self, _: web.Application) -> None:
        """Writes the summary of refusals that is still due."""
        self._refusals.close()

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        address = self._access.address(request.remote, headers_of(request))
        stats = RequestStats(request_id_of(request.headers.get("X-Request-Id")), Caller(address, frozenset()))
        request[STATS] = stats
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
            self._record(request, stats, status)

    def _record(self, request: web.Request, stats: RequestStats, status: int) -> None:
        route = request.match_info.route.resource
        elapsed_seconds = stats.elapsed_ns() / 1e9
        self._metrics.record(route.canonical if route else "", status, elapsed_seconds, stats.ttft_seconds)
        if stats.is_refused:
            self._refusals.add(stats.client)
        level = logging.DEBUG if stats.is_refused else logging.INFO
        if not _log.isEnabledFor(level):
            return
        # The path as it came, still encoded: a decoded one could break the line and forge another.
        path = request.rel_url.raw_path
        facts = {"method": request.method, "path": path, "status": status, **_facts(stats, elapsed_seconds)}
        line = f"{request.method} {path[:_LONGEST_PATH]} {status} {_rendered(stats, elapsed_seconds)}"
        _log.log(level, "%s", line, extra={"facts": facts})


def _rendered(stats: RequestStats, elapsed_seconds: float) -> str:
    """Returns the part of a line behind the status."""
    ttft_seconds, milliseconds = stats.ttft_seconds, f"{elapsed_seconds * 1e3:.0f} ms"
    parts = (
        milliseconds if ttft_seconds is None else f"{ttft_seconds * 1e3:.0f}/{milliseconds}",
        "" if ttft_seconds is None else f"{stats.prompt_tokens}+{stats.completion_tokens} tokens",
        stats.model,
        stats.worker,
        f"{stats.migrations} migrations" if stats.migrations else "",
        stats.client,
        stats.request_id[:_SHOWN_OF_ID],
    )
    return " ".join(part for part in parts if part)


def _facts(stats: RequestStats, elapsed_seconds: float) -> dict[str, object]:
    """Returns the fields of a line for structured logs."""
    ttft_seconds = stats.ttft_seconds
    return {
        "request_id": stats.request_id,
        "client": stats.client,
        "model": stats.model,
        "worker": stats.worker,
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.completion_tokens,
        "ttft_ms": None if ttft_seconds is None else round(ttft_seconds * 1e3, 1),
        "duration_ms": round(elapsed_seconds * 1e3, 1),
        "migrations": stats.migrations,
    }


class RefusalLog:
    """Counts refusals and logs a summary within a second. `close` it at the end."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._count = 0
        self._clients: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, client: str) -> None:
        self._count += 1
        self._clients.add(client)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SUMMARY_SECONDS, self._write)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._write()

    def _write(self) -> None:
        clients = f"{len(self._clients)} client{'s' if len(self._clients) > 1 else ''}"
        self._log.info("refused %d requests of %s: the queue is full", self._count, clients)
        self._timer, self._count = None, 0
        self._clients.clear()
