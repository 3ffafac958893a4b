"""Malformed HTTP is refused in JSON, and connections without progress are closed."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.callers import Access
from vllama_balancer.edge.app import build_app
from vllama_balancer.edge.config import EdgeConfig
from vllama_balancer.edge.server import EdgeServer
from vllama_balancer.fake_gateway import FakeFleet, FakeGateway, delta, finished, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "Bearer-of-secrets"


@asynccontextmanager
async def connected(
    config: EdgeConfig | None = None, gateway: FakeGateway | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Opens one raw connection to an edge of its own."""
    server = EdgeServer(build_app(gateway or FakeGateway(), config=config, fleet=FakeFleet()))
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await server.stop()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"this is no HTTP\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon here " + SECRET.encode() + b"\r\n\r\n", 400),
        (b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + SECRET.encode() * 2000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_no_http_is_refused_in_json(sent: bytes, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """The connection ends with one object that names the error, and the log does not quote the client."""
    caplog.set_level(logging.DEBUG)
    async with connected() as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(20):
            raw = await reader.read()
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode()
    assert b"application/json" in head
    assert json.loads(body)["error"]
    assert SECRET not in caplog.text


async def test_a_head_that_trickles_in_is_cut_off() -> None:
    """Every byte comes soon after the last one, and the end never."""
    async with connected(EdgeConfig(head_timeout_seconds=0.3)) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        ended = asyncio.ensure_future(reader.read())
        async with asyncio.timeout(20):
            while not ended.done():
                writer.write(b"X-More: 1\r\n")
                await asyncio.wait([ended], timeout=0.05)
        assert await ended == b""


async def test_a_connection_that_says_nothing_is_closed() -> None:
    """The timer of the first head runs from the beginning."""
    async with connected(EdgeConfig(head_timeout_seconds=0.1)) as (reader, _), asyncio.timeout(20):
        assert await reader.read() == b""


@asynccontextmanager
async def crowded(most: int, access: Access | None = None) -> AsyncIterator[tuple[int, list[asyncio.StreamWriter]]]:
    """Serves with few connections, all that one address may have are open and silent; yields the port and them."""
    config = EdgeConfig(max_connections=most)
    server = EdgeServer(build_app(FakeGateway(), config=config, fleet=FakeFleet(), access=access))
    port = await server.start("127.0.0.1", 0)
    writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(most // 2)]
    try:
        async with asyncio.timeout(20):
            while server.connections < len(writers):
                await asyncio.sleep(0.01)
        yield port, writers
    finally:
        for writer in writers:
            writer.transport.abort()
        await server.stop()


async def status_from(address: str, port: int, path: str = "/health/ready") -> int:
    """Returns the status of a reply to a client at this address."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    async with asyncio.timeout(20):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        status = int((await reader.readline()).split()[1])
    writer.transport.abort()
    return status


async def test_one_address_has_half_of_the_connections() -> None:
    """Beyond, it gets 503; other addresses are served, and it is again when some of its connections have ended."""
    async with crowded(8) as (port, writers):
        assert await status_from("127.0.0.1", port, "/api/version") == 503
        assert await status_from("127.0.0.2", port, "/api/version") == 200
        writers[0].transport.abort()
        async with asyncio.timeout(20):
            while await status_from("127.0.0.1", port, "/api/version") != 200:
                await asyncio.sleep(0.01)


async def test_a_trusted_proxy_may_have_all_connections() -> None:
    """They are those of many clients."""
    proxy = ipaddress.ip_network("127.0.0.1")
    async with crowded(4, Access(proxies=[proxy])) as (port, _):
        assert await status_from("127.0.0.1", port, "/api/version") == 200


async def test_readiness_turns_before_the_connections_are_used_up() -> None:
    """Then other processes should get the clients; this one serves on."""
    async with crowded(20) as (port, writers):
        for _ in range(8):
            _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
            writers.append(writer)
        async with asyncio.timeout(20):
            while await status_from("127.0.0.3", port, "/health/ready") != 503:
                await asyncio.sleep(0.01)
        assert await status_from("127.0.0.3", port, "/api/version") == 200


async def test_an_idle_connection_outlives_the_time_for_a_head() -> None:
    """The timer runs within a head only: between requests a connection may be idle."""
    request = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with connected(EdgeConfig(head_timeout_seconds=0.1)) as (reader, writer):
        for _ in range(2):
            writer.write(request)
            async with asyncio.timeout(20):
                answer = await reader.readuntil(b"}")
            assert answer.startswith(b"HTTP/1.1 200")
            await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.3))])


async def test_a_body_that_crawls_is_408() -> None:
    """A byte now and then does not keep a request alive."""
    config = EdgeConfig(body_timeout_seconds=0.4, slowest_bytes_per_second=10_000)
    async with connected(config) as (reader, writer):
        writer.write(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        answer = asyncio.ensure_future(reader.readuntil(b"\r\n"))
        async with asyncio.timeout(20):
            while not answer.done():
                writer.write(b" ")
                await asyncio.wait([answer], timeout=0.05)
        assert b" 408 " in await answer


async def test_a_whole_reply_that_nobody_takes_ends() -> None:
    """A client that asks for much at once and does not read is cut off as one that streams is."""
    gateway = FakeGateway()
    gateway.play(started(), *[delta("x" * 1_000_000)] * 50, finished())
    body = json.dumps({"model": "smollm2:135m", "prompt": "hi", "stream": False}).encode()
    config = EdgeConfig(write_timeout_seconds=0.2, slowest_bytes_per_second=2**30)
    server = EdgeServer(build_app(gateway, config=config, fleet=FakeFleet()))
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    try:
        writer.write(b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await reader.readexactly(1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(20):
            while server.connections:
                await asyncio.sleep(0.02)
    finally:
        writer.transport.abort()
        await server.stop()


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns what was logged about requests; raises if a line has a traceback."""
    for record in caplog.records:
        assert record.exc_info is None, record.getMessage()
        assert record.levelno < logging.WARNING, record.getMessage()
    return [record.getMessage() for record in caplog.records if record.name.startswith("vllama_balancer.edge")]


BROKEN_BODIES = {
    "gzip": (b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!", b" 400 "),
    "gzip, later": (
        b"Content-Encoding: gzip\r\nContent-Length: 300000\r\n\r\n" + gzip.compress(b" " * 99) + b"x" * 200_000,
        b" 400 ",
    ),
    "deflate": (b"Content-Encoding: deflate\r\nContent-Length: 9\r\n\r\nnot zlib!", b" 400 "),
    "zstd": (b"Content-Encoding: zstd\r\nContent-Length: 9\r\n\r\nnot zstd!", b" 400 "),
    "chunks": (b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\nzz\r\n', b" 400 "),
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
async def test_a_broken_body_is_one_line(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is the client's error: no traceback, no warning."""
    caplog.set_level(logging.INFO)
    rest, status = BROKEN_BODIES[name]
    async with connected(EdgeConfig(linger_seconds=0.1)) as (reader, writer):
        writer.write(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\n" + rest)
        async with asyncio.timeout(20):
            assert status in await reader.readline()
            await reader.read()
    assert len(lines_of(caplog)) == 1


@pytest.mark.parametrize("path", ["/api/chat", "/v1/embeddings", "/nowhere", "/"])
async def test_a_reset_within_a_body_is_one_line(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever was about to read it."""
    caplog.set_level(logging.INFO)
    async with connected(EdgeConfig(linger_seconds=5)) as (_, writer):
        writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc".encode())
        async with asyncio.timeout(20):
            while not lines_of(caplog) and path != "/api/chat" and path != "/v1/embeddings":
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            writer.transport.abort()
            while not lines_of(caplog):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    assert len(lines_of(caplog)) == 1
