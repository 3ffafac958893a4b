"""Serves the HTTP application: binds, drains, stops.

Everything that aiohttp must be told for the edge to keep its promises is told here: handlers are
cancelled when their client goes away, and long headers, slow headers and idle connections end.
See connection.py for what happens on one of them.

One client's connection: what no handler ever sees is answered here, in JSON and in time.

A request line or a header that breaks HTTP never becomes a request; aiohttp would answer it in
plain text and log it with a traceback that holds what the client sent. A head that trickles in
would keep its connection for as long as an idle one, and a whole reply that nobody takes for ever.
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
        self._app[CONTEXT].draining = True

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


_log = logging.getLogger(__name__)

SMALL_BYTES = 16 * 1024
"""Replies below it fit into an empty write buffer without filling it."""


class Connection(web.RequestHandler):
    """Reads the requests of one connection."""

    __slots__ = ("_config", "_head_timer")

    def __init__(self, manager: web.Server, config: EdgeConfig, **settings: Any) -> None:
        """`settings` are aiohttp's own."""
        super().__init__(manager, **settings)
        self._config = config
        self._head_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Takes bytes, and starts the clock when they end within a head."""
        super().data_received(data)
        waits_for_head = self._waiter is not None and not self._waiter.done()
        if not waits_for_head:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(self._config.head_timeout_seconds, self._give_up)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Ends with the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers what could not be parsed; its path, and so its dialect, is not known. Closes the connection."""
        status, sentence = _refusal(status, exc)
        if status >= 500:
            _log.error("a request failed outside its handler", exc_info=exc)
        else:
            _log.info("refused what %s sent: %d, %s", request.remote, status, sentence)
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
        """Sends a reply; a client that does not take it in time is cut off. Streams have their own limit."""
        transport = self.transport
        length = resp.content_length or 0
        if length < SMALL_BYTES and transport is not None and not transport.get_write_buffer_size():
            # The usual case: it fits into an empty buffer, so this cannot block.
            return await super().finish_response(request, resp, start_time)
        try:
            async with asyncio.timeout(self._allowed_seconds(length)):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if transport is not None:
                # Closing would wait for the very bytes that the client does not take.
                transport.abort()
            _log.info("cut off %s, which did not take its reply", request.remote)
            return resp, True

    def _allowed_seconds(self, length_bytes: int) -> float:
        return self._config.write_timeout_seconds + length_bytes / self._config.slowest_bytes_per_second

    def _give_up(self) -> None:
        self._head_timer = None
        if self._waiter is not None and not self._waiter.done():
            _log.info("closed a connection whose request did not arrive in time")
            self.force_close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Connections(web.Server):
    """Makes a Connection for every client."""

    def __init__(self, server: web.Server, config: EdgeConfig) -> None:
        """`server` is what aiohttp made for the application: its settings are taken over."""
        super().__init__(
            server.request_handler,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
        )
        self._settings = server._kwargs
        self._config = config

    def __call__(self) -> Connection:
        """Makes the protocol of a new connection."""
        return Connection(self, self._config, loop=self._loop, **self._settings)


def _refusal(status: int, error: BaseException | None) -> tuple[int, str]:
    """Words a fault of the parser; its own message quotes what the client sent."""
    if isinstance(error, LineTooLong):
        return 431, "the request line or one of the headers is too long"
    if isinstance(error, BadHttpMethod):
        return 400, "malformed HTTP request: this port speaks plain HTTP/1.1; check the scheme of the address"
    if status == 400:
        return 400, "malformed HTTP request"
    return status, "internal error"
