"""Streams keep the client's pace, end as they should, and end the generation when the client disconnects."""

from __future__ import annotations

import asyncio
import json
from io import BytesIO
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.edge.app import build_app
from vllama_balancer.edge.config import EdgeConfig
from vllama_balancer.edge.server import EdgeServer
from vllama_balancer.fake_gateway import FakeFleet, FakeGateway, delta, finished, started

if TYPE_CHECKING:
    import aiohttp

    from tests.edge.conftest import Serve

BODY = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "hi"}]}


def raw_request(port: int, version: str = "1.1", *headers: str, body: object = BODY) -> bytes:
    """Writes a chat request by hand."""
    content = json.dumps(body).encode()
    lines = [f"POST /api/chat HTTP/{version}", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def port_of(http: aiohttp.ClientSession) -> int:
    """Reads the port that a session is bound to."""
    assert http._base_url is not None
    port = http._base_url.port
    assert port is not None
    return port


async def test_lines_are_single_objects_ended_by_one_line_feed(http: aiohttp.ClientSession) -> None:
    """Exactly one chunk is done, and it is the last."""
    async with http.post("/api/chat", json=BODY) as reply:
        assert reply.content_type == "application/x-ndjson"
        raw = await reply.read()
    assert raw.endswith(b"\n")
    assert b"\n\n" not in raw
    chunks = [json.loads(line) for line in raw.decode().splitlines()]
    assert [chunk["done"] for chunk in chunks] == [False, False, True]


async def test_line_breaking_characters_do_not_break_lines(gateway: FakeGateway, http: aiohttp.ClientSession) -> None:
    """Clients that split with str.splitlines get whole objects, whatever the text."""
    text = "a\u0085b\u2028c\u2029d\x0be\x0cf\x1cg\x1dh\x1ei\rj\nk"
    gateway.play(started(), delta(text), finished())
    async with http.post("/api/chat", json=BODY) as reply:
        lines = (await reply.read()).decode().splitlines()
    assert json.loads(lines[0])["message"]["content"] == text


async def test_chunks_are_flushed_one_by_one(gateway: FakeGateway, http: aiohttp.ClientSession) -> None:
    """A chunk arrives while the generation is still running."""
    go_on = asyncio.Event()
    gateway.play(started(), delta("a"), go_on, delta("b"), finished())
    async with http.post("/api/chat", json=BODY) as reply:
        assert json.loads(await reply.content.readline())["message"]["content"] == "a"
        go_on.set()
        assert len((await reply.content.read()).splitlines()) == 2


@pytest.mark.parametrize("script", ["before started", "before the first token", "within the stream"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_disconnect_ends_the_generation(
    gateway: FakeGateway, http: aiohttp.ClientSession, script: str, stream: bool
) -> None:
    """In every phase, streamed or not, a client that disconnects ends its generation at once."""
    never = asyncio.Event()
    steps = {
        "before started": (),
        "before the first token": (started(),),
        "within the stream": (started(), delta("a")),
    }
    gateway.play(*steps[script], never)
    port = port_of(http)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw_request(port, body={**BODY, "stream": stream}))
    async with asyncio.timeout(5):
        await gateway.waiting.wait()
    writer.transport.abort()
    async with asyncio.timeout(5):
        await gateway.all_closed.wait()
    async with http.get("/api/version") as reply:
        assert reply.status == 200


@pytest.mark.parametrize("headers", [(), ("Connection: keep-alive",)])
async def test_http_1_0_gets_a_stream_that_ends_with_the_connection(
    http: aiohttp.ClientSession, headers: tuple[str, ...]
) -> None:
    """Old proxies speak 1.0: no chunked coding, even when they would like to keep the connection."""
    port = port_of(http)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw_request(port, "1.0", *headers))
    async with asyncio.timeout(5):
        raw = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK")
    assert b"chunked" not in head.lower()
    assert [json.loads(line)["done"] for line in body.splitlines()] == [False, False, True]


async def test_a_client_that_does_not_read_is_cut_off(serve: Serve) -> None:
    """The generation ends with the client's connection."""
    gateway = FakeGateway()
    gateway.play(started(), *[delta("x" * 1_000_000)] * 50, finished())
    async with serve(gateway, EdgeConfig(write_timeout_seconds=0.2)) as http:
        port = port_of(http)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(raw_request(port))
        await reader.readexactly(1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            await gateway.all_closed.wait()
        writer.transport.abort()


async def test_the_connection_of_a_client_that_does_not_read_ends() -> None:
    """Bytes that it never takes keep no socket open."""
    gateway = FakeGateway()
    gateway.play(started(), *[delta("x" * 1_000_000)] * 50, finished())
    config = EdgeConfig(write_timeout_seconds=0.2)
    server = EdgeServer(build_app(gateway, config=config, fleet=FakeFleet()))
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(raw_request(port))
    await reader.readexactly(1)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    assert server.connections == 1
    try:
        async with asyncio.timeout(20):
            while server.connections:
                await asyncio.sleep(0.01)
    finally:
        writer.transport.abort()
        await server.stop()


async def test_a_slow_client_slows_the_generation(gateway: FakeGateway, http: aiohttp.ClientSession) -> None:
    """Events are not queued while the client does not read: memory stays bounded."""
    gateway.play(started(), *[delta("x" * 1_000_000)] * 50, finished())
    port = port_of(http)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(raw_request(port))
    await reader.readexactly(1)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    async with http.get("/api/version") as reply:
        assert reply.status == 200
    assert gateway.running == 1
    writer.transport.abort()
    async with asyncio.timeout(5):
        await gateway.all_closed.wait()


async def test_chunked_bodies_and_expect_work(http: aiohttp.ClientSession) -> None:
    """Curl asks before it sends a large body, and some clients send chunks."""

    async def chunks():  # type: ignore[no-untyped-def]
        content = json.dumps({**BODY, "stream": False}).encode()
        yield content[:10]
        yield content[10:]

    async with http.post("/api/chat", data=chunks(), expect100=True) as reply:
        assert (await reply.json())["message"]["content"] == "Hello world"


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "application/octet-stream"]
)
async def test_the_body_is_json_whatever_the_content_type(http: aiohttp.ClientSession, content_type: str) -> None:
    """Many scripts send none, or a wrong one."""
    data = json.dumps({**BODY, "stream": False}).encode()
    async with http.post("/api/chat", data=data, headers={"Content-Type": content_type}) as reply:
        assert reply.status == 200


async def test_large_bodies_pass_and_larger_ones_are_413(serve: Serve, gateway: FakeGateway) -> None:
    """The framework's limit of 1 MiB does not apply; the configured one does, with or without a length."""
    large = json.dumps({**BODY, "stream": False, "ignored": "x" * 2_000_000}).encode()
    async with serve(gateway, EdgeConfig(max_body_bytes=3_000_000)) as http:
        async with http.post("/api/chat", data=BytesIO(large)) as reply:
            assert reply.status == 200
        async with http.post("/api/chat", data=BytesIO(large + large)) as reply:
            assert reply.status == 413
            assert await reply.json() == {"error": "the request body is larger than 3000000 bytes"}

        async def endless():  # type: ignore[no-untyped-def]
            for _ in range(5):
                yield b" " * 1_000_000

        async with http.post("/api/chat", data=endless()) as reply:
            assert reply.status == 413


async def test_a_body_that_stalls_is_408(serve: Serve, gateway: FakeGateway) -> None:
    """A client that announces more than it sends does not hold a connection for ever."""
    async with serve(gateway, EdgeConfig(body_timeout_seconds=0.1, linger_seconds=0.1)) as http:
        port = port_of(http)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw_request(port)[:-5])
        async with asyncio.timeout(15):
            raw = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert b" 408 " in raw.splitlines()[0]


async def test_fifty_streams_at_once_all_end(gateway: FakeGateway, http: aiohttp.ClientSession) -> None:
    """Many streams of one client run side by side."""

    async def last_line() -> bytes:
        async with http.post("/api/chat", json=BODY) as reply:
            return (await reply.read()).splitlines()[-1]

    lines = await asyncio.gather(*(last_line() for _ in range(50)))
    assert all(json.loads(line)["done"] for line in lines)
    assert gateway.running == 0
