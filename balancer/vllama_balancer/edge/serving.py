"""Serves the HTTP application: binds, drains, stops.

Everything that aiohttp must be told for the edge to keep its promises is told here: handlers are
cancelled when their client goes away, and long headers, slow headers and idle connections end.
See connection.py for what happens on one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from vllama_balancer.edge.app import EDGE
from vllama_balancer.edge.connection import Connections

if TYPE_CHECKING:
    import socket
    import ssl

    from vllama_balancer.edge.config import EdgeConfig


class EdgeServer:
    """One application on one listening socket."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        config = app[EDGE].config
        self._runner = _Runner(
            app,
            config,
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

    @property
    def connections(self) -> int:
        """How many clients are connected, busy or idle."""
        server = self._runner.server
        return len(server.connections) if server is not None else 0

    async def stop(self) -> None:
        """Closes the socket and every connection. May be called more than once."""
        await self._runner.cleanup()


class _Runner(web.AppRunner):
    """Runs an application on connections of our own."""

    __slots__ = ("_config",)

    def __init__(self, app: web.Application, config: EdgeConfig, **settings: Any) -> None:
        super().__init__(app, **settings)
        self._config = config

    async def _make_server(self) -> web.Server:
        return Connections(await super()._make_server(), self._config)
