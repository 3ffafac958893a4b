"""A lean HTTP/1.1 client: one connection, one request at a time, bytes as they come.

A load generator shares the machine with what it measures, so what it spends is taken from the
result. A general client spends several times as long on a token as this one.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

READ_BYTES = 1 << 16
HEAD_END = b"\r\n\r\n"
MAX_HEAD_BYTES = 1 << 16


class HttpError(Exception):
    """The server answered what is no HTTP, or ended in the middle."""


@dataclass(frozen=True, slots=True)
class Url:
    """A base address."""

    host: str
    port: int
    path: str
    tls: bool

    @classmethod
    def parse(cls, text: str) -> Url:
        """Reads "http://host:port/base"; ValueError for anything else."""
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{text!r} is no address: write http://host:port")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), parts.path.rstrip("/"), tls)


class ChunkedDecoder:
    """Takes the framing off a chunked body, however its bytes are cut."""

    def __init__(self) -> None:
        self._pending = b""
        self._left = 0
        self._is_last = False
        self.finished = False
        """Whether the last chunk has come, with what ends it."""

    def feed(self, data: bytes) -> bytes:
        """Adds bytes of the wire and returns those of the body that are complete. HttpError for bad framing."""
        pending, start, out = self._pending + data, 0, []
        while start < len(pending) and not self.finished:
            if self._left:
                piece = pending[start : start + self._left]
                out.append(piece)
                start += len(piece)
                self._left -= len(piece)
                continue
            end = pending.find(b"\r\n", start)
            if end < 0:
                break
            self._line(pending[start:end])
            start = end + 2
        self._pending = pending[start:]
        return b"".join(out)

    def _line(self, line: bytes) -> None:
        """Reads a line between two chunks: the empty one that ends a chunk, a size, or a trailer."""
        if self._is_last:
            self.finished = not line
        elif line:
            try:
                self._left = int(line.partition(b";")[0], 16)
            except ValueError:
                raise HttpError(f"the size of a chunk is {line[:20]!r}") from None
            self._is_last = self._left == 0


class HttpConnection:
    """One connection that is kept, and opened again when the server has closed it."""

    def __init__(self, url: Url, headers: Mapping[str, str]) -> None:
        self._url = url
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f"Host: {url.host}:{url.port}\r\nContent-Type: application/json\r\n{extra}"
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes) -> int:
        """Sends a request and returns the status; read the body next, to its end. OSError, HttpError."""
        head = f"POST {self._url.path}{path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        reader, writer = await self._connection()
        writer.write(head.encode() + body)
        status, headers, self._first = await _head(reader)
        self._decoder = ChunkedDecoder() if headers.get("transfer-encoding", "").lower() == "chunked" else None
        self._length = int(headers.get("content-length", -1))
        self._keep = headers.get("connection", "").lower() != "close"
        return status

    async def body(self) -> AsyncIterator[bytes]:
        """Yields the body's bytes as they come. HttpError when it ends in the middle."""
        data, seen = self._first, 0
        while True:
            if data:
                piece = data if self._decoder is None else self._decoder.feed(data)
                seen += len(piece)
                if piece:
                    yield piece
            if self._decoder.finished if self._decoder else 0 <= self._length <= seen:
                break
            data = await self._read()
            if not data:
                self.close()
                if self._decoder is None and self._length < 0:
                    return
                raise HttpError("the connection ended in the middle of the answer")
        if not self._keep:
            self.close()

    def close(self) -> None:
        """Drops the connection, whatever is under way on it; the next request opens another."""
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.transport.abort()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None or self._reader.at_eof() or self._writer.is_closing():
            self.close()
            tls = ssl.create_default_context() if self._url.tls else None
            self._reader, self._writer = await asyncio.open_connection(self._url.host, self._url.port, ssl=tls)
        return self._reader, self._writer

    async def _read(self) -> bytes:
        return b"" if self._reader is None else await self._reader.read(READ_BYTES)


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    data = b""
    while HEAD_END not in data:
        more = await reader.read(READ_BYTES)
        if not more or len(data) > MAX_HEAD_BYTES:
            raise HttpError("the connection ended before an answer came")
        data += more
    head, _, rest = data.partition(HEAD_END)
    first, *lines = head.decode("latin-1").split("\r\n")
    status = first.split(" ")[1:2]
    if not first.startswith("HTTP/1.") or not status or not status[0].isdecimal():
        raise HttpError(f"the answer begins with {first[:40]!r}, which is no HTTP")
    pairs = (line.partition(":") for line in lines)
    return int(status[0]), {name.strip().lower(): value.strip() for name, _, value in pairs}, rest
