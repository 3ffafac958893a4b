"""JSON in and out: decodes and validates bodies, and encodes replies that survive line splitting.

msgspec writes raw UTF-8, and clients built on httpx split streams with `str.splitlines`, which
also breaks at U+0085, U+2028 and U+2029. These three are therefore escaped afterwards: their byte
sequences can only occur inside JSON strings.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from vllama_balancer.errors import InvalidRequest

T = TypeVar("T")

_HIGH, _LOW = rb"[89abAB][0-9a-fA-F]{2}", rb"[c-fC-F][0-9a-fA-F]{2}"
_NOT_BEFORE_LOW = rb"(?!\\u[dD]" + _LOW + rb")"
_NOT_AFTER_HIGH = rb"(?<!\\u[dD]" + _HIGH + rb"\\u[dD]" + _LOW + rb")"
_HALF = re.compile(rb"\\u[dD](?:" + _HIGH + _NOT_BEFORE_LOW + rb"|" + _LOW + _NOT_AFTER_HIGH + rb")")
"""Half of an escaped surrogate pair; whole pairs do not match, so texts full of emoji cost little."""

_ENCODER = msgspec.json.Encoder()

_LINE_BREAKS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)

_LONGEST_RUN = 1024
"""How far back backslashes are counted."""


def encode_json(value: object) -> bytes:
    """Encodes a value as JSON on one line, without the line's end."""
    encoded = _ENCODER.encode(value)
    if encoded.isascii():
        # One pass instead of three, for what most lines are.
        return encoded
    for raw, escaped in _LINE_BREAKS:
        if raw in encoded:
            encoded = encoded.replace(raw, escaped)
    return encoded


def encode_line(value: object) -> bytes:
    """Encodes a value as one line of NDJSON."""
    return encode_json(value) + b"\n"


def encode_sse(value: object, event: str = "") -> bytes:
    """Encodes a value as one server-sent event; `event` names its type when it has one."""
    name = f"event: {event}\n".encode() if event else b""
    return name + b"data: " + encode_json(value) + b"\n\n"


def decode_json(body: bytes, kind: type[T]) -> T:
    """Decodes a request's body into a struct; broken characters in texts become U+FFFD.

    Raises InvalidRequest: `missing request body` when there is nothing but blanks, otherwise the
    parser's own message, which names the place of the fault.
    """
    if not body.strip():
        raise InvalidRequest("missing request body", reason="MISSING_BODY")
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

    Clients that cut texts by length send such halves of an emoji.
    """
    try:
        body.decode()
    except UnicodeDecodeError:
        body = body.decode(errors="replace").encode()
    # A search for two bytes is far faster than the expression: large pictures must not wait for it.
    return _HALF.sub(_replaced, body) if b"\\ud" in body or b"\\uD" in body else body


def _replaced(match: re.Match[bytes]) -> bytes:
    """Replaces a half, unless its backslash is itself escaped and the rest is plain text."""
    before = match.string[max(0, match.start() - _LONGEST_RUN) : match.start()]
    backslashes = len(before) - len(before.rstrip(b"\\"))
    return match[0] if backslashes % 2 else b"\\ufffd"


def compact_json(text: bytes | msgspec.Raw) -> str:
    """Takes blanks out of JSON text; its keys, numbers and escapes stay as they were written.

    Raises InvalidRequest when the text is not JSON.
    """
    try:
        return msgspec.json.format(bytes(text), indent=-1).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"malformed JSON: {error}") from error


def _field_of(error: msgspec.ValidationError) -> str:
    """Reads the path out of a message such as "Expected `str`, got `int` - at `$.model`"."""
    _, found, path = str(error).rpartition(" - at `$.")
    return path.rstrip("`") if found else ""
