"""The HTTP server: binds the socket, drains and stops; and its connections.

aiohttp is configured here: a handler is cancelled when its client disconnects; long headers, slow headers and idle
connections end.

A connection also replies in JSON to what never becomes a request, such as a malformed request line: aiohttp would
reply in plain text, and log a traceback with the bytes of the client. It closes a connection whose head arrives too
slowly, or whose whole reply is not read.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong

from vllama_balancer.edge.app import CONTEXT
from vllama_balancer.edge.body import encode_json
from vllama_balancer.edge.ollama.errors import error_body

if TYPE_CHECKING:
    import socket
    import ssl

    from vllama_balancer.edge.config import EdgeConfig

_log = logging.getLogger(__name__)
SMALL_BYTES = 16 * 1024
"""Smaller replies fit into an empty write buffer."""


class EdgeServer:
    """One application on one listening socket."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        config = app[CONTEXT].config
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
        """Binds and serves; returns the port, chosen by the system if given as 0.

        `sock`, when given, is served instead of host and port. Raises OSError when the port is in use.
        """
        await self._runner.setup()
        if sock is not None:
            site: web.BaseSite = web.SockSite(self._runner, sock, ssl_context=ssl_context, backlog=1024)
        else:
            site = web.TCPSite(self._runner, host, port, ssl_context=ssl_context, backlog=1024)
        await site.start()
        return int(self._runner.addresses[0][1])

    def drain(self) -> None:
        """Makes /health reply 503 and refuses new generations; running streams continue."""
        self._app[CONTEXT].draining = True

    @property
    def connections(self) -> int:
        """Number of open connections, busy or idle."""
        server = self._runner.server
        return len(server.connections) if server is not None else 0

    async def stop(self) -> None:
        """Closes the socket and all connections; idempotent."""
        await self._runner.cleanup()


class _Runner(web.AppRunner):
    """An AppRunner that makes `Connection`s."""

    __slots__ = ("_config",)

    def __init__(self, app: web.Application, config: EdgeConfig, **settings: Any) -> None:
        super().__init__(app, **settings)
        self._config = config

    async def _make_server(self) -> web.Server:
        return Connections(await super()._make_server(), self._config)


class Connection(web.RequestHandler):
    """The protocol of one client's connection."""

    __slots__ = ("_config", "_head_timer")

    def __init__(self, manager: web.Server, config: EdgeConfig, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._config = config
        self._head_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Parses bytes, and starts the timer if they end within a head."""
        super().data_received(data)
        waits_for_head = self._waiter is not None and not self._waiter.done()
        if not waits_for_head:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(self._config.head_timeout_seconds, self._give_up)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stops the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Replies to what could not be parsed, in Ollama's shape as the path is unknown, and closes the connection."""
        status, sentence = _refusal(status, exc)
        if status >= 500:
            _log.error("unhandled exception outside of a handler", exc_info=exc)
        else:
            _log.info("malformed request from %s refused: %d, %s", request.remote, status, sentence)
        if request.writer.output_size:
            raise ConnectionError("part of a reply is out already: it cannot become an error")
        response = web.Response(
            status=status,
            body=encode_json(error_body(status, sentence, "")),
            content_type="application/json",
            charset="utf-8",
            headers={"Server": f"vllama/{self._config.product_version}"},
        )
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends a reply; cuts off a client that does not read it in time. Streams have their own limit."""
        transport = self.transport
        length = resp.content_length or 0
        if length < SMALL_BYTES and transport is not None and not transport.get_write_buffer_size():
            # The usual case: it fits into an empty buffer, so this does not block.
            return await super().finish_response(request, resp, start_time)
        try:
            async with asyncio.timeout(self._allowed_seconds(length)):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if transport is not None:
                # Closing would wait for the bytes that the client does not read.
                transport.abort()
            _log.info("connection of %s aborted: its reply was not read in time", request.remote)
            return resp, True

    def _allowed_seconds(self, length_bytes: int) -> float:
        return self._config.write_timeout_seconds + length_bytes / self._config.slowest_bytes_per_second

    def _give_up(self) -> None:
        self._head_timer = None
        if self._waiter is not None and not self._waiter.done():
            _log.info("connection closed: its request did not arrive in time")
            self.force_close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Connections(web.Server):
    """An aiohttp server that makes a `Connection` for every client."""

    def __init__(self, server: web.Server, config: EdgeConfig) -> None:
        """Takes over the settings of `server`, which aiohttp made for the application."""
        super().__init__(
            server.request_handler,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
        )
        self._settings = server._kwargs
        self._config = config

    def __call__(self) -> Connection:
        """Returns the protocol of a new connection."""
        return Connection(self, self._config, loop=self._loop, **self._settings)


def _refusal(status: int, error: BaseException | None) -> tuple[int, str]:
    """Returns status and message for a parser error, whose own message quotes the client's bytes."""
    if isinstance(error, LineTooLong):
        return 431, "the request line or one of the headers is too long"
    if isinstance(error, BadHttpMethod):
        return 400, "malformed HTTP request: this port speaks plain HTTP/1.1; check the scheme of the address"
    if status == 400:
        return 400, "malformed HTTP request"
    return status, "internal error"
