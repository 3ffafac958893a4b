"""Sends one request on each of many connections at one moment, and notes when each answer begins.

Bare sockets, one selector and bytes that were made before: a client that takes half a millisecond for an answer would
measure itself. The time is from a request's last byte to its answer's first one.
"""

from __future__ import annotations

import gc
import selectors
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CHUNK_BYTES = 1 << 16
_FRAME_HEAD_BYTES = 9
_HEADERS, _END_STREAM = 1, 0x1


class Answer(NamedTuple):
    """The beginning of one reply."""

    seconds: float
    """From the request's last byte to the answer's first."""
    is_refusal: bool
    """Whether it says that there is no room."""
    retry_after: str
    """Retry-After, if the head is complete and has it."""


class Door(Protocol):
    """How one protocol begins, asks and answers."""

    prologue: bytes
    """What a connection begins with; whatever comes back before a request is no answer."""
    request: bytes
    """One whole request."""

    def read(self, data: bytes) -> tuple[bool, str] | None:
        """Tells whether an answer is a refusal, and when to come back; None while none has begun."""
        ...


class HttpDoor:
    """HTTP/1.1 without streaming."""

    def __init__(self, path: str, body: bytes) -> None:
        self.prologue = b""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        self.request = head.encode() + body

    def read(self, data: bytes) -> tuple[bool, str] | None:
        """Reads status and Retry-After."""
        if not data:
            return None
        head = data.partition(b"\r\n\r\n")[0].decode().lower()
        lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        return head.split(" ", 2)[1] == "503", lines.get("retry-after", "")


class GrpcDoor:
    """gRPC over plain HTTP/2, one call on a connection."""

    def __init__(self, method: str, message: bytes) -> None:
        # An empty SETTINGS frame follows the preface.
        self.prologue = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"")
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        block = b"".join(_literal(name, value) for name, value in fields.items())
        data = b"\0" + len(message).to_bytes(4, "big") + message
        self.request = _frame(_HEADERS, 0x4, 1, block) + _frame(0, _END_STREAM, 1, data)

    def read(self, data: bytes) -> tuple[bool, str] | None:
        """A refusal is trailers alone; what they say is compressed and left unread."""
        for kind, flags in _frames(data):
            if kind == _HEADERS:
                return bool(flags & _END_STREAM), ""
        return None


@dataclass(slots=True)
class _Shot:
    connection: socket.socket
    sent_at: float = 0.0
    came: bytes = b""
    answer: Answer | None = field(default=None)


def volley(
    door: Door, address: tuple[str, int], count: int, *, is_fresh: bool, patience_seconds: float
) -> list[Answer]:
    """Fires `count` requests at once and returns the answers that begin in time.

    Connections are opened beforehand, or each right before its request when they are to be fresh.
    """
    shots = [] if is_fresh else [_Shot(_open(door, address)) for _ in range(count)]
    if not is_fresh:
        _settle([shot.connection for shot in shots])
    gc.disable()
    try:
        for number in range(count):
            if is_fresh:
                shots.append(_Shot(_open(door, address)))
            shots[number].connection.send(door.request)
            shots[number].sent_at = time.perf_counter()
        _collect(door, shots, patience_seconds)
    finally:
        gc.enable()
        for shot in shots:
            shot.connection.close()
    return [shot.answer for shot in shots if shot.answer is not None]


def _open(door: Door, address: tuple[str, int]) -> socket.socket:
    connection = socket.create_connection(address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if door.prologue:
        connection.send(door.prologue)
    connection.setblocking(False)
    return connection


def _settle(connections: Sequence[socket.socket], quiet_seconds: float = 0.3) -> None:
    """Reads away what the other side says first, until nothing has come for a while."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        while ready := selector.select(quiet_seconds):
            for key, _ in ready:
                if not key.fileobj.recv(_CHUNK_BYTES):  # type: ignore[union-attr]
                    raise ConnectionError("the server hung up before it was asked anything")


def _collect(door: Door, shots: Sequence[_Shot], patience_seconds: float) -> None:
    with selectors.DefaultSelector() as selector:
        for shot in shots:
            selector.register(shot.connection, selectors.EVENT_READ, shot)
        until = time.perf_counter() + patience_seconds
        while selector.get_map() and (left := until - time.perf_counter()) > 0:
            for key, _ in selector.select(left):
                _take(door, key.data, selector)


def _take(door: Door, shot: _Shot, selector: selectors.BaseSelector) -> None:
    data = shot.connection.recv(_CHUNK_BYTES)
    seconds = time.perf_counter() - shot.sent_at
    shot.came += data
    read = door.read(shot.came)
    if read is not None:
        shot.answer = Answer(seconds, *read)
    if read is not None or not data:
        selector.unregister(shot.connection)


def _literal(name: str, value: str) -> bytes:
    """One header field as HPACK writes it when it remembers nothing (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields kind and flags of each frame whose head is there."""
    at = 0
    while at + _FRAME_HEAD_BYTES <= len(data):
        yield data[at + 3], data[at + 4]
        at += _FRAME_HEAD_BYTES + int.from_bytes(data[at : at + 3], "big")
