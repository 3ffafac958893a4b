"""JSON in and out: decodes and validates bodies, and encodes replies that survive line splitting.

msgspec writes raw UTF-8, and clients built on httpx split streams with `str.splitlines`, which
also breaks at U+0085, U+2028 and U+2029. These three are therefore escaped afterwards: their byte
sequences can only occur inside JSON strings.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from vllama_balancer.errors import InvalidRequest

T = TypeVar("T")

_ENCODER = msgspec.json.Encoder()

_LINE_BREAKS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


def encode_json(value: object) -> bytes:
    """Encodes a value as JSON on one line, without the line's end."""
    encoded = _ENCODER.encode(value)
    # One scan rules the common case out: bytes 85, A8 and A9 alone are frequent in other scripts.
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
    """Decodes a request's body into a struct.

    Raises InvalidRequest: `missing request body` when there is nothing but blanks, otherwise the
    parser's own message, which names the place of the fault.
    """
    if not body.strip():
        raise InvalidRequest("missing request body", reason="MISSING_BODY")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error), field=_field_of(error)) from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(str(error)) from error
    except UnicodeDecodeError as error:
        raise InvalidRequest("the request body is not valid UTF-8") from error
    except RecursionError as error:
        raise InvalidRequest("the request body is nested too deeply") from error


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
