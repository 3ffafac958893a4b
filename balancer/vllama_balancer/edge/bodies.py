"""Reads request bodies: bounded in size, and cut off when the client falls silent or only trickles.

The body is parsed as JSON whatever the Content-Type says, because curl and many scripts send
form-urlencoded, octet-stream or nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from vllama_balancer.edge.encoding import decode_json
from vllama_balancer.edge.statuses import HttpError

if TYPE_CHECKING:
    from aiohttp import web

    from vllama_balancer.edge.config import EdgeConfig

T = TypeVar("T")
B = TypeVar("B", bytes, bytearray)


async def read_json(request: web.Request, kind: type[T], config: EdgeConfig) -> T:
    """Reads and decodes a body. Raises InvalidRequest, or HttpError 408 or 413."""
    return decode_json(await read_body(request, config), kind)


async def read_body(request: web.Request, config: EdgeConfig) -> bytes:
    """Reads a whole body. Raises HttpError 413 when it is too large, 408 when it stalls or crawls."""
    if (request.content_length or 0) > config.max_body_bytes:
        raise _too_large(config.max_body_bytes)
    if request.content.is_eof():
        # All of it came with the head, as small ones do: nothing to wait for, and no timer to start.
        return _within(request.content.read_nowait(), config.max_body_bytes)
    body = bytearray()
    now = asyncio.get_running_loop().time
    begun = now()
    try:
        while True:
            # What has come has earned time for the rest, so that a long body on a slow line still passes.
            allowed = begun + config.body_timeout_seconds + len(body) / config.slowest_bytes_per_second - now()
            chunk = await asyncio.wait_for(request.content.readany(), min(config.body_timeout_seconds, allowed))
            if not chunk:
                return bytes(body)
            body += chunk
            _within(body, config.max_body_bytes)
    except TimeoutError:
        raise HttpError(408, "the request body did not arrive in time") from None


def _within(body: B, limit_bytes: int) -> B:
    """Passes a body on. Raises HttpError 413 when it is too large."""
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    return body


def _too_large(limit_bytes: int) -> HttpError:
    return HttpError(413, f"the request body is larger than {limit_bytes} bytes")
