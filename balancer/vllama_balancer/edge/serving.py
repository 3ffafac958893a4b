"""Serves the HTTP application: binds, drains, stops.

Everything that aiohttp must be told for the edge to keep its promises is told here: handlers are
cancelled when their client goes away, and long headers, slow headers and idle connections end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.edge.app import EDGE

if TYPE_CHECKING:
    import socket
    import ssl


class EdgeServer:
    """One application on one listening socket."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        config = app[EDGE].config
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=config.idle_timeout_seconds,
            lingering_time=config.linger_seconds,
            max_line_size=config.max_line_bytes,
            max_field_size=config.max_header_bytes,
            # How long `stop` waits for running requests; drained servers have none.
            shutdown_timeout=1.0,
        )

    async def start(
        self, host: str, port: int, *, ssl_context: ssl.SSLContext | None = None, sock: socket.socket | None = None
    ) -> int:
        """Binds and serves; returns the port, which was free to choose when given as 0.

        `sock`, when given, is served instead of host and port. Raises OSError when the port is
        in use.
        """
        await self._runner.setup()
        if sock is not None:
            site: web.BaseSite = web.SockSite(self._runner, sock, ssl_context=ssl_context, backlog=1024)
        else:
            site = web.TCPSite(self._runner, host, port, ssl_context=ssl_context, backlog=1024)
        await site.start()
        return int(self._runner.addresses[0][1])

    def drain(self) -> None:
        """Makes /health say 503 and refuses new generations; running streams go on."""
        self._app[EDGE].draining = True

    async def stop(self) -> None:
        """Closes the socket and every connection. May be called more than once."""
        await self._runner.cleanup()
