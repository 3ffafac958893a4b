"""A lean HTTP/1.1 client: one connection, one request at a time, bytes as they come.

A load generator shares the machine with the measured server, so its own CPU time lowers the result. A general client
spends several times as long on a token as this one.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HEAD_END = b"\r\n\r\n"
MAX_HEAD_BYTES = 1 << 16


class HttpError(Exception):
    """The server's answer is no HTTP, or it ended in the middle."""


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
    """Decodes a chunked body whose bytes arrive in pieces of any size."""

    def __init__(self) -> None:
        self._pending = b""
        self._left = 0
        self._is_last = False
        self.finished = False
        """True after the last chunk and its trailer."""

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


class ResponseParser:
    """Parses one response as its bytes come, and passes the body on without keeping it."""

    def __init__(self, on_body: Callable[[bytes], None]) -> None:
        self.status = 0
        """HTTP status; 0 until the head has come."""
        self.is_kept = True
        """Whether the server keeps the connection."""
        self.finished = False
        """Whether the whole response has come."""
        self._on_body = on_body
        self._head = b""
        self._decoder: ChunkedDecoder | None = None
        self._left: int | None = None

    def feed(self, data: bytes) -> None:
        """Parses received bytes. HttpError when they are no response."""
        if not self.status:
            self._head += data
            head, end, data = self._head.partition(HEAD_END)
            if not end:
                if len(head) > MAX_HEAD_BYTES:
                    raise HttpError("the answer's head does not end")
                return
            self._read_head(head)
        self._read_body(data)

    def end(self) -> None:
        """The connection has ended. HttpError when that was in the middle of the response."""
        if not self.status:
            raise HttpError("the connection ended before an answer came")
        if not self.finished and (self._decoder is not None or self._left is not None):
            raise HttpError("the connection ended in the middle of the answer")
        self.finished = True

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        status = first.split(" ")[1:2]
        if not first.startswith("HTTP/1.") or not status or not status[0].isdecimal():
            raise HttpError(f"the answer begins with {first[:40]!r}, which is no HTTP")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.status = int(status[0])
        self.is_kept = headers.get("connection", "").lower() != "close"
        if headers.get("transfer-encoding", "").lower() == "chunked":
            self._decoder = ChunkedDecoder()
        elif headers.get("content-length", "").isdecimal():
            self._left = int(headers["content-length"])
        else:
            self.is_kept = False

    def _read_body(self, data: bytes) -> None:
        piece = data if self._decoder is None else self._decoder.feed(data)
        if piece:
            self._on_body(piece)
        if self._decoder is not None:
            self.finished = self._decoder.finished
        elif self._left is not None:
            self._left -= len(piece)
            self.finished = self._left <= 0


class HttpConnection(asyncio.Protocol):
    """One connection that is kept, and opened again when the server has closed it.

    It parses in the event loop's callback: waking a task for every token would cost more than all other work for it.
    """

    def __init__(self, url: Url, headers: Mapping[str, str], tls: ssl.SSLContext | None = None) -> None:
        """`tls` is for https addresses; None trusts the system's authorities."""
        self._url = url
        self._tls = (tls or ssl.create_default_context()) if url.tls else None
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f"Host: {url.host}:{url.port}\r\nContent-Type: application/json\r\n{extra}"
        self._transport: asyncio.Transport | None = None
        self._parser: ResponseParser | None = None
        self._whole: asyncio.Future[None] | None = None

    async def post(self, path: str, body: bytes, on_body: Callable[[bytes], None]) -> int:
        """Sends a request, hands the body's bytes to `on_body` as they come, and returns the status at its end.

        OSError when there is no connection, HttpError when the answer is no HTTP or breaks off. After a failure or a
        cancellation the connection is closed.
        """
        head = f"POST {self._url.path}{path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        parser = ResponseParser(on_body)
        is_kept = False
        try:
            transport = await self._connected()
            self._parser, self._whole = parser, asyncio.get_running_loop().create_future()
            transport.write(head.encode() + body)
            await self._whole
            is_kept = parser.is_kept
            return parser.status
        finally:
            self._parser = self._whole = None
            if not is_kept:
                self.close()

    def close(self) -> None:
        """Drops the connection; the next request opens another."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        try:
            self._parser.feed(data)
        except (HttpError, ValueError) as error:
            self._settle(error)
        else:
            if self._parser.finished:
                self._settle(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._parser is None:
            return
        try:
            self._parser.end()
        except HttpError as error:
            self._settle(exc or error)
        else:
            self._settle(None)

    def _settle(self, error: Exception | None) -> None:
        if self._whole is None or self._whole.done():
            return
        if error is None:
            self._whole.set_result(None)
        else:
            self._whole.set_exception(error)

    async def _connected(self) -> asyncio.Transport:
        if self._transport is None or self._transport.is_closing():
            loop = asyncio.get_running_loop()
            url = self._url
            self._transport, _ = await loop.create_connection(lambda: self, url.host, url.port, ssl=self._tls)
        return self._transport
