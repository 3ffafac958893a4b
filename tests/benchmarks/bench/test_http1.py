"""The lean HTTP client: framing however the bytes are cut, kept connections, broken servers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_benchmarks.bench.http1 import ChunkedDecoder, HttpConnection, HttpError, Url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def framed(chunks: list[bytes]) -> bytes:
    """Frames a body."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk) + b"0\r\n\r\n"


@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_a_chunked_body_survives_any_cut(chunks: list[bytes], data: st.DataObject) -> None:
    """Wherever the network cuts the bytes, the body is the same and its end is seen."""
    wire = framed(chunks)
    decoder, out, start = ChunkedDecoder(), b"", 0
    while start < len(wire):
        end = data.draw(st.integers(start + 1, len(wire)))
        assert not decoder.finished
        out += decoder.feed(wire[start:end])
        start = end
    assert decoder.finished
    assert out == b"".join(chunks)


def test_extensions_and_trailers_are_skipped() -> None:
    """What may stand beside a size or after the last chunk does no harm."""
    decoder = ChunkedDecoder()
    assert decoder.feed(b"3;name=value\r\nabc\r\n0\r\nTrailer: x\r\n\r\n") == b"abc"
    assert decoder.finished


def test_a_bad_size_is_an_error() -> None:
    """Garbage in the framing is not taken for a body."""
    with pytest.raises(HttpError, match="size"):
        ChunkedDecoder().feed(b"xyz\r\nabc\r\n")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://box", Url("box", 80, "", False)),
        ("http://box:1/base/", Url("box", 1, "/base", False)),
        ("https://box", Url("box", 443, "", True)),
    ],
)
def test_url(text: str, url: Url) -> None:
    """Ports and base paths are read."""
    assert Url.parse(text) == url


@pytest.mark.parametrize("text", ["box", "ftp://box", "http://", "http://box:x"])
def test_bad_url(text: str) -> None:
    """What is no address is refused."""
    with pytest.raises(ValueError, match=r".+"):
        Url.parse(text)


@asynccontextmanager
async def raw_server(*answers: bytes) -> AsyncIterator[tuple[Url, list[int]]]:
    """Answers each request with the next of these bytes, then closes; counts connections."""
    left, connections = list(answers), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        while left and await reader.read(1 << 16):
            writer.write(left.pop(0))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield Url("127.0.0.1", server.sockets[0].getsockname()[1], "", False), connections
    server.close()
    await server.wait_closed()


async def body_of(connection: HttpConnection) -> bytes:
    """Sends a request and reads all of its answer."""
    pieces: list[bytes] = []
    assert await connection.post("/", b"{}", pieces.append) == 200
    return b"".join(pieces)


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
OLD = b"HTTP/1.0 200 OK\r\n\r\nhi"


async def test_a_connection_is_kept() -> None:
    """Two requests go over one connection, whatever frames their answers."""
    async with raw_server(LENGTH, CHUNKED) as (url, connections):
        connection = HttpConnection(url, {})
        assert [await body_of(connection), await body_of(connection)] == [b"hi", b"hi"]
        connection.close()
    assert len(connections) == 1


@pytest.mark.parametrize("answer", [CLOSING, OLD])
async def test_a_closed_connection_is_opened_again(answer: bytes) -> None:
    """A server that closes after each answer gets a connection per request."""
    async with raw_server(answer) as (url, _):
        connection = HttpConnection(url, {})
        assert await body_of(connection) == b"hi"
        connection.close()


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-x\r\n\r\n", LENGTH[:-1], CHUNKED[:-9], b"HTTP/1.1 200"], ids=range(5)
)
async def test_broken_answers_are_errors(answer: bytes) -> None:
    """An answer that is cut, or is none, is not taken for one."""
    async with raw_server(answer) as (url, _):
        connection = HttpConnection(url, {})
        with pytest.raises((HttpError, ConnectionError)):
            await body_of(connection)
        connection.close()
