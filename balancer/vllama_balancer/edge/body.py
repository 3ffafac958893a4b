"""Request bodies and JSON: bounded reading, decoding with validation, and encoding.

A body is parsed as JSON whatever its Content-Type: curl and many scripts send form-urlencoded, octet-stream or nothing.

msgspec writes raw UTF-8, and clients built on httpx split streams with `str.splitlines`, which also breaks at U+0085,
U+2028 and U+2029. These three are escaped after encoding: their byte sequences occur inside JSON strings only.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, TypeVar

import msgspec
from aiohttp import web

from vllama_balancer.client_limits import HeldBytes
from vllama_balancer.edge.http_errors import HttpError
from vllama_balancer.edge.request_stats import STATS
from vllama_balancer.errors import InvalidRequest
from vllama_protos.errors import reason_text
from vllama_protos.v1.errors_pb2 import ErrorReason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllama_balancer.client_limits import ByteBudget
    from vllama_balancer.edge.config import EdgeConfig

T = TypeVar("T")

HELD_BYTES: web.RequestKey[HeldBytes] = web.RequestKey("held_bytes", HeldBytes)
"""Key of the count of a request's bytes."""

_HIGH, _LOW = rb"[89abAB][0-9a-fA-F]{2}", rb"[c-fC-F][0-9a-fA-F]{2}"
_NOT_BEFORE_LOW = rb"(?!\\u[dD]" + _LOW + rb")"
_NOT_AFTER_HIGH = rb"(?<!\\u[dD]" + _HIGH + rb"\\u[dD]" + _LOW + rb")"
_HALF = re.compile(rb"\\u[dD](?:" + _HIGH + _NOT_BEFORE_LOW + rb"|" + _LOW + _NOT_AFTER_HIGH + rb")")
"""Half of an escaped surrogate pair. Whole pairs do not match."""
_MOST_REPAIRED_BYTES = 8 * 1024 * 1024
"""A longer body must be free of broken characters: a repair reads it several times."""
_MOST_SURROGATES = 100_000
"""Escaped surrogates in a text that is repaired."""

_ENCODER = msgspec.json.Encoder()
_LINE_BREAKS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)

SMALL_BODY_BYTES = 64 * 1024
"""A smaller body is decoded and translated at once, whatever is in it."""
_MOST_CONTAINERS = 30_000
"""Arrays and objects in a body: each costs up to two microseconds of the event loop until it is translated."""
_MOST_COMMAS = 150_000
"""Values of arrays and objects in a body, which cost a tenth of that."""
_EXACT_BYTES = 4 * 1024 * 1024
"""Longer bodies are refused by the brackets and commas within their texts as well."""
_MOST_QUOTES = 500_000
"""Quotes in a body whose brackets and commas outside of texts are counted."""


async def read_json(request: web.Request, kind: type[T], config: EdgeConfig) -> T:
    """Reads and decodes a body. Raises InvalidRequest, HttpError 408 or 413, or BytesExhausted."""
    body = await read_body(request, config)
    if len(body) <= SMALL_BODY_BYTES:
        return decode_json(body, kind)
    # Checking, decoding and translating a large body take long enough for other clients to have a turn in between.
    check_structure(body)
    await asyncio.sleep(0)
    value = decode_json(body, kind)
    await asyncio.sleep(0)
    return value


async def read_body(request: web.Request, config: EdgeConfig) -> bytes:
    """Reads a whole body. Raises HttpError 413 when it is too large, 408 when it stalls or crawls.

    Raises BytesExhausted when the process holds too many bytes of requests.
    """
    if (request.content_length or 0) > config.max_body_bytes:
        raise _too_large(config.max_body_bytes)
    if request.content.is_eof():
        # A small body comes with the head: no wait, and no timer.
        content = _within(request.content.read_nowait(), config.max_body_bytes)
        request[HELD_BYTES].add(len(content))
        return content
    body = bytearray()
    now = asyncio.get_running_loop().time
    begun = now()
    try:
        while True:
            # Received bytes extend the time limit: a long body on a slow line still passes.
            allowed = begun + config.body_timeout_seconds + len(body) / config.slowest_bytes_per_second - now()
            async with asyncio.timeout(min(config.body_timeout_seconds, allowed)):
                chunk = await request.content.readany()
            if not chunk:
                return bytes(body)
            if len(body) + len(chunk) > config.max_body_bytes:
                raise _too_large(config.max_body_bytes)
            request[HELD_BYTES].add(len(chunk))
            body += chunk
    except TimeoutError:
        raise HttpError(408, "the request body did not arrive in time") from None


class BodyBudget:
    """The middleware that counts the bytes of a request's body until its reply is complete."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        with self._budget.request(request[STATS].client) as held:
            request[HELD_BYTES] = held
            return await handler(request)


def _within(body: bytes, limit_bytes: int) -> bytes:
    """Returns the body. Raises HttpError 413 when it is too large."""
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    return body


def _too_large(limit_bytes: int) -> HttpError:
    return HttpError(413, f"the request body is larger than {limit_bytes} bytes")


def encode_json(value: object) -> bytes:
    """Returns JSON on one line, without a line feed."""
    encoded = _ENCODER.encode(value)
    if encoded.isascii():
        # One pass instead of three; most lines are ASCII.
        return encoded
    for raw, escaped in _LINE_BREAKS:
        if raw in encoded:
            encoded = encoded.replace(raw, escaped)
    return encoded


def json_response(value: object, status: int = 200) -> web.Response:
    """Returns a reply of one JSON value."""
    return web.Response(status=status, body=encode_json(value), content_type="application/json")


def encode_line(value: object) -> bytes:
    """Returns one line of NDJSON."""
    return encode_json(value) + b"\n"


def encode_sse(value: object, event: str = "") -> bytes:
    """Returns one server-sent event; `event` is its type, if it has one."""
    name = f"event: {event}\n".encode() if event else b""
    return name + b"data: " + encode_json(value) + b"\n\n"


def decode_json(body: bytes, kind: type[T]) -> T:
    """Decodes a body into a struct; broken characters in texts become U+FFFD.

    Raises InvalidRequest: `missing request body` for a blank one, otherwise the parser's message, which names the
    position of the error.
    """
    if not body.strip():
        raise InvalidRequest("missing request body", reason=reason_text(ErrorReason.ERROR_REASON_MISSING_BODY))
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error), field=_field_of(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        repaired = with_whole_characters(body)
        if repaired is body:
            raise InvalidRequest(str(error)) from None
    except RecursionError:
        raise InvalidRequest("the request body is nested too deeply") from None
    return decode_json(repaired, kind)


def check_structure(body: bytes) -> None:
    """Raises InvalidRequest for a body with so many parts that decoding it would block the event loop.

    The brackets, commas and quotes are counted at the speed of memory; those within texts count only in large bodies.
    """
    if _has_few_parts(body):
        return
    if len(body) <= _EXACT_BYTES and body.count(b'"') <= _MOST_QUOTES and _has_few_parts(_without_texts(body)):
        return
    message = f"the request has more than {_MOST_CONTAINERS} arrays and objects, or {_MOST_COMMAS} values; send less"
    raise InvalidRequest(message)


def _has_few_parts(body: bytes) -> bool:
    return body.count(b"[") + body.count(b"{") <= _MOST_CONTAINERS and body.count(b",") <= _MOST_COMMAS


def _without_texts(body: bytes) -> bytes:
    """Returns JSON without the contents of its strings."""
    return b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])


def with_whole_characters(body: bytes) -> bytes:
    """Replaces broken UTF-8 and halves of escaped surrogate pairs by U+FFFD, as Ollama's parser does.

    Clients that truncate texts by length send such halves of an emoji. Returns the body itself when nothing is broken,
    or when it is too large.
    """
    if len(body) > _MOST_REPAIRED_BYTES:
        return body
    repaired = body
    try:
        body.decode()
    except UnicodeDecodeError:
        repaired = body.decode(errors="replace").encode()
    # NUL, which no JSON holds, takes the place of escaped backslashes: what follows them is plain text.
    if 0 < repaired.count(b"\\ud") + repaired.count(b"\\uD") <= _MOST_SURROGATES and b"\0" not in repaired:
        repaired = _HALF.sub(rb"\\ufffd", repaired.replace(b"\\\\", b"\0")).replace(b"\0", b"\\\\")
    return body if repaired == body else repaired


def compact_json(text: bytes | msgspec.Raw) -> str:
    """Removes blanks from JSON text; its keys, numbers and escapes stay as they were written.

    Broken characters become U+FFFD. Raises InvalidRequest when the text is not JSON.
    """
    try:
        return msgspec.json.format(with_whole_characters(bytes(text)), indent=-1).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"malformed JSON: {error}") from error


def _field_of(error: msgspec.ValidationError) -> str:
    """Returns the path in a message such as "Expected `str`, got `int` - at `$.model`"."""
    _, found, path = str(error).rpartition(" - at `$.")
    return path.rstrip("`") if found else ""
