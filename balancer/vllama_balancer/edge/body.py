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

from vllama_balancer.edge.http_errors import HttpError
from vllama_balancer.errors import InvalidRequest
from vllama_protos.errors import reason_text
from vllama_protos.v1.errors_pb2 import ErrorReason

if TYPE_CHECKING:
    from vllama_balancer.edge.config import EdgeConfig

T = TypeVar("T")
B = TypeVar("B", bytes, bytearray)

_HIGH, _LOW = rb"[89abAB][0-9a-fA-F]{2}", rb"[c-fC-F][0-9a-fA-F]{2}"
_NOT_BEFORE_LOW = rb"(?!\\u[dD]" + _LOW + rb")"
_NOT_AFTER_HIGH = rb"(?<!\\u[dD]" + _HIGH + rb"\\u[dD]" + _LOW + rb")"
_HALF = re.compile(rb"\\u[dD](?:" + _HIGH + _NOT_BEFORE_LOW + rb"|" + _LOW + _NOT_AFTER_HIGH + rb")")
"""Half of an escaped surrogate pair. Whole pairs do not match, so texts full of emoji cost little."""

_ENCODER = msgspec.json.Encoder()
_LINE_BREAKS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)

_LONGEST_RUN = 1024
"""How many bytes back backslashes are counted."""


async def read_json(request: web.Request, kind: type[T], config: EdgeConfig) -> T:
    """Reads and decodes a body. Raises InvalidRequest, or HttpError 408 or 413."""
    return decode_json(await read_body(request, config), kind)


async def read_body(request: web.Request, config: EdgeConfig) -> bytes:
    """Reads a whole body. Raises HttpError 413 when it is too large, 408 when it stalls or crawls."""
    if (request.content_length or 0) > config.max_body_bytes:
        raise _too_large(config.max_body_bytes)
    if request.content.is_eof():
        # A small body comes with the head: no wait, and no timer.
        return _within(request.content.read_nowait(), config.max_body_bytes)
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
            body += chunk
            _within(body, config.max_body_bytes)
    except TimeoutError:
        raise HttpError(408, "the request body did not arrive in time") from None


def _within(body: B, limit_bytes: int) -> B:
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
        return msgspec.json.decode(_with_whole_characters(body), type=kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error), field=_field_of(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(str(error)) from error
    except RecursionError as error:
        raise InvalidRequest("the request body is nested too deeply") from error


def _with_whole_characters(body: bytes) -> bytes:
    """Replaces broken UTF-8 and halves of escaped surrogate pairs, as Ollama's parser does.

    Clients that truncate texts by length send such halves of an emoji.
    """
    try:
        body.decode()
    except UnicodeDecodeError:
        body = body.decode(errors="replace").encode()
    # A search for three bytes is far faster than the expression, which would be slow over large images.
    return _HALF.sub(_replaced, body) if b"\\ud" in body or b"\\uD" in body else body


def _replaced(match: re.Match[bytes]) -> bytes:
    """Returns U+FFFD, or the match itself if its backslash is escaped: then it is plain text."""
    before = match.string[max(0, match.start() - _LONGEST_RUN) : match.start()]
    backslashes = len(before) - len(before.rstrip(b"\\"))
    return match[0] if backslashes % 2 else b"\\ufffd"


def compact_json(text: bytes | msgspec.Raw) -> str:
    """Removes blanks from JSON text; its keys, numbers and escapes stay as they were written.

    Raises InvalidRequest when the text is not JSON.
    """
    try:
        return msgspec.json.format(bytes(text), indent=-1).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"malformed JSON: {error}") from error


def _field_of(error: msgspec.ValidationError) -> str:
    """Returns the path in a message such as "Expected `str`, got `int` - at `$.model`"."""
    _, found, path = str(error).rpartition(" - at `$.")
    return path.rstrip("`") if found else ""
