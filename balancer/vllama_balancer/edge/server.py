"""The HTTP server: binds the socket, drains and stops; and its connections.

aiohttp is configured here: a handler is cancelled when its client disconnects; long headers, slow headers and idle
connections end.

Connections are bounded, in all and by address: beyond, a client gets 503 and is closed.

A connection also replies in JSON to what never becomes a request, such as a malformed request line: aiohttp would
reply in plain text, and log a traceback with the bytes of the client. It closes a connection whose head arrives too
slowly, or whose whole reply is not read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong, PayloadEncodingError

from vllama_balancer.callers import LOCAL
from vllama_balancer.edge.app import CONTEXT
from vllama_balancer.edge.body import encode_json
from vllama_balancer.edge.ollama.errors import error_body

if TYPE_CHECKING:
    import socket
    import ssl

    from vllama_balancer.edge.config import EdgeConfig
    from vllama_balancer.edge.context import HandlerContext

_log = logging.getLogger(__name__)
SMALL_BYTES = 16 * 1024
"""Smaller replies fit into an empty write buffer."""


_CLIENT_ERRORS = (web.RequestPayloadError, PayloadEncodingError, ConnectionError)
"""What a broken body or a reset raises, wherever the body is read."""
_CROWDED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: 32\r\n\r\n" + b'{"error":"too many connections"}'
)
"""Reply to a connection beyond the limits."""


class EdgeServer:
    """One application on one listening socket."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        config = app[CONTEXT].config
        self._runner = _Runner(
            app,
            app[CONTEXT],
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
        """Makes /health reply 503 and refuses new requests; running streams continue, and replies end connections."""
        self._app[CONTEXT].limits.drain()

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

    __slots__ = ("_context",)

    def __init__(self, app: web.Application, context: HandlerContext, **settings: Any) -> None:
        super().__init__(app, **settings)
        self._context = context

    async def _make_server(self) -> web.Server:
        return Connections(await super()._make_server(), self._context)


class Connection(web.RequestHandler):
    """The protocol of one client's connection."""

    __slots__ = ("_config", "_connections", "_head_timer", "_is_refused")

    def __init__(self, manager: Connections, config: EdgeConfig, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._config = config
        self._connections = manager
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts the timer of the first head, or refuses the connection when there are too many."""
        super().connection_made(transport)
        if self._connections.admits(self):
            self._head_timer = self._loop.call_later(self._config.head_timeout_seconds, self._give_up)
            return
        self._is_refused = True
        if self.transport is not None:
            self.transport.write(_CROWDED)
        self.force_close()

    def data_received(self, data: bytes) -> None:
        """Parses bytes, and starts the timer if they end within a head."""
        if self._is_refused:
            return
        super().data_received(data)
        waits_for_head = self._waiter is not None and not self._waiter.done()
        if not waits_for_head:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(self._config.head_timeout_seconds, self._give_up)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stops the timer."""
        self._stop_timer()
        self._connections.forget(self)
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
        if isinstance(exc, _CLIENT_ERRORS):
            _log.debug("request of %s ended outside of a handler: %s", request.remote, type(exc).__name__)
        elif status >= 500:
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

    def log_exception(self, *args: Any, **settings: Any) -> None:
        """Logs an exception of aiohttp's own loop, unless the client caused it: the access log has a line for that."""
        if not isinstance(settings.get("exc_info"), _CLIENT_ERRORS):
            super().log_exception(*args, **settings)

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

    def __init__(self, server: web.Server, context: HandlerContext) -> None:
        """Takes over the settings of `server`, which aiohttp made for the application."""
        super().__init__(
            server.request_handler,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
        )
        self._settings = server._kwargs
        self._context = context
        self._addresses: dict[Connection, str] = {}
        self._by_address: Counter[str] = Counter()
        self._silent_until = 0.0

    def __call__(self) -> Connection:
        """Returns the protocol of a new connection."""
        return Connection(self, self._context.config, loop=self._loop, **self._settings)

    def admits(self, connection: Connection) -> bool:
        """Counts a new connection; returns False when there are too many, in all or of its address."""
        config = self._context.config
        transport = connection.transport
        peer = transport.get_extra_info("peername") if transport is not None else None
        address = peer[0] if isinstance(peer, tuple) else LOCAL
        most = config.max_connections
        own = most if self._context.is_proxy(address) else most // 2
        if len(self._addresses) >= most or self._by_address[address] >= own:
            self._log_refusal(address)
            return False
        self._addresses[connection] = address
        self._by_address[address] += 1
        self._context.connections = len(self._addresses)
        return True

    def forget(self, connection: Connection) -> None:
        """Counts a connection out."""
        address = self._addresses.pop(connection, None)
        if address is None:
            return
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
        self._context.connections = len(self._addresses)

    def _log_refusal(self, address: str) -> None:
        """Logs one refusal a second at most."""
        if self._loop.time() >= self._silent_until:
            self._silent_until = self._loop.time() + 1.0
            _log.warning("connection of %s refused: %d are open, too many", address, len(self._addresses))


def _refusal(status: int, error: BaseException | None) -> tuple[int, str]:
    """Returns status and message for a parser error, whose own message quotes the client's bytes."""
    if isinstance(error, LineTooLong):
        return 431, "the request line or one of the headers is too long"
    if isinstance(error, BadHttpMethod):
        return 400, "malformed HTTP request: this port speaks plain HTTP/1.1; check the scheme of the address"
    if status == 400:
        return 400, "malformed HTTP request"
    return status, "internal error"
