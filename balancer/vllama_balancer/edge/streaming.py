"""Streamed replies: the status line waits for the first chunk, and the client sets the pace.

An error before the first chunk is raised and becomes an HTTP error; a later one becomes the last chunk. Each chunk is
written before the next one is requested: for a slow client, unread output is merged into fewer and larger deltas, and
memory holds no more than the rest of its answer. When the client disconnects, the handler is cancelled (see server.py)
and the chunks are closed, which ends the generation.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.edge.http_errors import HttpError
from vllama_balancer.errors import BalancerError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

_SMALL = 16 * 1024
"""Smaller chunks fit into an empty write buffer."""

_log = logging.getLogger(__name__)


async def stream(
    request: web.Request,
    chunks: AsyncGenerator[bytes, None],
    *,
    content_type: str,
    render_error: Callable[[BalancerError], bytes],
    write_timeout_seconds: float = 60.0,
) -> web.StreamResponse:
    """Sends chunks as they come, each flushed, and ends the reply after the last.

    Raises what `chunks` raises before its first chunk. Later errors are sent as `render_error`'s chunk. `chunks` is
    closed in every case. A client that reads no byte for `write_timeout_seconds` is cut off.
    """
    async with aclosing(chunks):
        first = await anext(chunks, b"")
        writer = _Writer(request, content_type, write_timeout_seconds)
        await writer.start()
        try:
            await writer.write(first)
            async for chunk in chunks:
                await writer.write(chunk)
        except BalancerError as error:
            await writer.write(render_error(error))
        except ConnectionError:
            raise
        except Exception:
            _log.exception("unhandled exception in a stream")
            await writer.write(render_error(HttpError(500, "internal error")))
        return await writer.end()


class _Reply(web.StreamResponse):
    """A reply whose head is sent together with its first chunk, which saves a packet."""

    _send_headers_immediately = False


class _Writer:
    """Writes one streamed reply."""

    def __init__(self, request: web.Request, content_type: str, timeout_seconds: float) -> None:
        self._request = request
        self._timeout_seconds = timeout_seconds
        self._response = _Reply(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._response.content_type = content_type
        if request.version < (1, 1):
            # HTTP/1.0 has no chunked coding: the end of the connection ends the reply.
            self._response.force_close()

    async def start(self) -> None:
        await self._response.prepare(self._request)

    async def write(self, chunk: bytes) -> None:
        if not chunk:
            return
        transport = self._request.transport
        if len(chunk) < _SMALL and transport is not None and not transport.get_write_buffer_size():
            # The usual case, once per token: the client keeps up, so this does not block.
            await self._response.write(chunk)
            return
        await self._within_time(self._response.write(chunk))

    async def end(self) -> web.StreamResponse:
        await self._within_time(self._response.write_eof())
        return self._response

    async def _within_time(self, writing: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await writing
        except TimeoutError:
            # Closing would wait for the bytes that the client does not read.
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client does not read") from None
