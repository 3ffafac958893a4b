"""One client cannot take all streams, and a process that drains starts none."""

from __future__ import annotations

import asyncio
import gzip
import json
from io import BytesIO
from typing import TYPE_CHECKING

import aiohttp
import pytest

from vllama_balancer.client_limits import ByteBudget, ClientLimits, StreamLimit
from vllama_balancer.edge.app import CONTEXT, build_app
from vllama_balancer.edge.config import EdgeConfig
from vllama_balancer.edge.server import EdgeServer
from vllama_balancer.errors import BytesExhausted, InvalidRequest, TooManyStreams
from vllama_balancer.fake_gateway import FakeFleet, FakeGateway, delta, finished, started

if TYPE_CHECKING:
    from tests.edge.conftest import Serve

BODY = {"model": "smollm2:135m", "prompt": "hi"}


def test_the_limit_is_per_client_and_is_given_back() -> None:
    """The count falls when the block ends, however it ends."""
    limit = StreamLimit(lambda: 1)
    with limit.hold("a"), limit.hold("b"), pytest.raises(TooManyStreams, match="1 of this client"):
        limit.hold("a").__enter__()
    with pytest.raises(RuntimeError), limit.hold("a"):
        raise RuntimeError
    assert limit.running("a") == limit.running("b") == 0


def test_several_streams_are_counted_together() -> None:
    """All of them fit, or none is counted."""
    limit = StreamLimit(lambda: 3)
    with limit.hold("a", 2):
        with pytest.raises(TooManyStreams):
            limit.hold("a", 2).__enter__()
        assert limit.running("a") == 2
    assert limit.running("a") == 0


def test_bytes_are_counted_beyond_the_first_of_each_request() -> None:
    """Ordinary requests pass however many bytes large ones hold, and all bytes are given back."""
    budget = ByteBudget(1_000_000)
    with budget.request("a") as large, budget.request("b") as small:
        large.add(300_000)
        large.add(200_000)
        assert budget.held_bytes == 500_000 - 64 * 1024
        with pytest.raises(BytesExhausted) as caught:
            large.add(100_000)
        assert caught.value.retry_after_seconds
        small.add(64 * 1024)
        with budget.request("b") as other:
            other.add(500_000)
            with budget.request("c") as third, pytest.raises(BytesExhausted):
                third.add(300_000)
    assert budget.held_bytes == 0


async def test_too_many_streams_of_one_client_are_429(serve: Serve) -> None:
    """The refusal has Retry-After; after the running streams, requests are served again."""
    gateway, go_on = FakeGateway(), asyncio.Event()
    gateway.play(started(), delta("a"), go_on, finished())
    async with serve(gateway, limits=ClientLimits(lambda: 1)) as http:
        async with http.post("/api/generate", json=BODY) as running:
            await running.content.readline()
            async with http.post("/api/generate", json=BODY) as refused:
                assert refused.status == 429
                assert refused.headers["Retry-After"] == "1"
                assert "too many requests" in (await refused.json())["error"]
            go_on.set()
            await running.read()
        async with http.post("/api/generate", json=BODY) as again:
            assert again.status == 200


async def test_draining_finishes_streams_and_takes_no_new_ones() -> None:
    """While the process drains, /health reports it and new generations are refused."""
    gateway, go_on = FakeGateway(), asyncio.Event()
    gateway.play(started(), delta("a"), go_on, delta("b"), finished())
    server = EdgeServer(build_app(gateway, fleet=FakeFleet()))
    port = await server.start("127.0.0.1", 0)
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(url) as http, http.post("/api/generate", json=BODY) as running:
        await running.content.readline()
        server.drain()
        async with http.get("/health") as health:
            assert health.status == 503
            assert (await health.json())["status"] == "draining"
        async with http.post("/api/generate", json=BODY) as refused:
            assert refused.status == 503
            assert refused.headers["Retry-After"] == "1"
            assert (await refused.json())["error"] == "the server is shutting down"
        go_on.set()
        assert len((await running.read()).splitlines()) == 2
    await server.stop()


@pytest.mark.parametrize("path", ["/api/generate", "/v1/chat/completions", "/v1/messages", "/api/pull", "/api/show"])
async def test_a_request_on_a_kept_alive_connection_is_refused_while_draining(path: str) -> None:
    """It gets 503 and when to come back, on the connection of the request before; that connection then ends."""
    server = EdgeServer(build_app(FakeGateway(), fleet=FakeFleet()))
    port = await server.start("127.0.0.1", 0)
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as http:
        async with http.get("/api/version") as before:
            await before.read()
        assert server.connections == 1
        server.drain()
        async with http.post(path, json={"model": "smollm2:135m"}) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
            assert refused.headers["Connection"] == "close"
            assert "shutting down" in await refused.text()
        async with asyncio.timeout(10):
            while server.connections:
                await asyncio.sleep(0.005)
    await server.stop()


async def test_the_next_request_after_a_stream_that_ends_while_draining_is_refused() -> None:
    """On its connection, whose first reply was begun before: the client gets 503 and no reset."""
    gateway, go_on = FakeGateway(), asyncio.Event()
    gateway.play(started(), delta("a"), go_on, finished())
    server = EdgeServer(build_app(gateway, fleet=FakeFleet()))
    port = await server.start("127.0.0.1", 0)
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as http:
        async with http.post("/api/generate", json=BODY) as running:
            await running.content.readline()
            server.drain()
            go_on.set()
            await running.read()
        async with http.post("/api/generate", json=BODY) as refused:
            assert refused.status == 503
    await server.stop()


async def test_stopping_twice_is_fine() -> None:
    """Two parts of the process may both stop it."""
    server = EdgeServer(build_app(FakeGateway(), fleet=FakeFleet()))
    await server.start("127.0.0.1", 0)
    await server.stop()
    await server.stop()


async def test_a_long_url_is_refused(serve: Serve) -> None:
    """Request lines are bounded."""
    async with serve(FakeGateway()) as http, http.get("/" + "x" * 20_000) as reply:
        assert reply.status == 431


async def test_an_idle_connection_is_closed(serve: Serve) -> None:
    """An idle connection is closed."""
    async with serve(FakeGateway(), EdgeConfig(idle_timeout_seconds=0.1)) as http:
        assert http._base_url is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", http._base_url.port)
        writer.write(b"GET / HT")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


def test_the_edge_is_found_in_its_application() -> None:
    """The server of an application can reach its context."""
    assert build_app(FakeGateway(), fleet=FakeFleet())[CONTEXT].limits.draining is False


def large_body(size: int) -> dict[str, str]:
    """Returns a body of at least so many bytes."""
    return {**BODY, "ignored": "x" * size}


async def test_bytes_in_flight_are_bounded(serve: Serve) -> None:
    """While large requests run, another large one is 503 with Retry-After, and a small one is served."""
    gateway, go_on = FakeGateway(), asyncio.Event()
    gateway.play(started(), delta("a"), go_on, finished())
    limits = ClientLimits(most_inflight_bytes=400_000)
    async with serve(gateway, limits=limits) as http:
        async with http.post("/api/generate", json=large_body(200_000)) as running:
            await running.content.readline()
            assert limits.bytes.held_bytes > 100_000
            async with http.post("/api/generate", json=large_body(200_000)) as refused:
                assert refused.status == 503
                assert refused.headers["Retry-After"] == "1"
                assert "--max-inflight-bytes" in (await refused.json())["error"]
            async with http.post("/api/generate", json=BODY) as small:
                assert small.status == 200
            go_on.set()
            await running.read()
        async with http.post("/api/generate", json=large_body(200_000)) as again:
            assert again.status == 200
    assert limits.bytes.held_bytes == 0


async def test_compressed_bytes_count_decompressed(serve: Serve) -> None:
    """A few bytes on the wire may be many in memory."""
    limits = ClientLimits(most_inflight_bytes=1_000_000)
    data = gzip.compress(json.dumps(large_body(2_000_000)).encode())
    headers = {"Content-Encoding": "gzip"}
    async with (
        serve(FakeGateway(), limits=limits) as http,
        http.post("/api/generate", data=data, headers=headers) as refused,
    ):
        assert refused.status == 503
    assert limits.bytes.held_bytes == 0


def written(body: object) -> BytesIO:
    """Returns a large body as a client should send it."""
    return BytesIO(json.dumps(body).encode())


CHAT = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "hi"}]}


async def test_choices_times_bytes_are_bounded(serve: Serve) -> None:
    """Before anything is copied or begun: a prompt of 1 MiB cannot be asked for 128 choices."""
    gateway = FakeGateway()
    for path, prompt in (("chat/completions", "messages"), ("completions", "prompt")):
        body = {**CHAT, "prompt": "hi", "n": 128}
        body[prompt] = [{"role": "user", "content": "a " * 524_288}] if prompt == "messages" else "a " * 524_288
        async with serve(gateway) as http, http.post(f"/v1/{path}", data=written(body)) as refused:
            assert refused.status == 400
            assert "ask for 31 at most" in (await refused.json())["error"]["message"]
    assert gateway.requests == []


async def test_every_choice_counts_before_the_first_begins(serve: Serve) -> None:
    """A request for more choices than the client may have streams is refused whole."""
    gateway = FakeGateway()
    async with serve(gateway, limits=ClientLimits(lambda: 3)) as http:
        async with http.post("/v1/chat/completions", json={**CHAT, "n": 4}) as refused:
            assert refused.status == 429
        assert gateway.requests == []
        async with http.post("/v1/chat/completions", json={**CHAT, "n": 3}) as served:
            assert len((await served.json())["choices"]) == 3


async def test_a_refused_request_is_refused_once(serve: Serve) -> None:
    """The choices after the first begin when that one has been accepted: one prompt too long is one refusal."""
    gateway = FakeGateway()
    gateway.play(InvalidRequest("too long", reason="CONTEXT_TOO_LONG"))
    async with serve(gateway) as http, http.post("/v1/chat/completions", json={**CHAT, "n": 16}) as refused:
        assert refused.status == 400
    assert len(gateway.requests) == 1


async def test_texts_are_bounded_in_every_dialect(serve: Serve) -> None:
    """Eight mebibytes without pictures are too many, before a worker sees them."""
    gateway = FakeGateway()
    text = "x" * 8_388_608
    bodies = {
        "/api/generate": {**BODY, "prompt": text},
        "/api/chat": {**CHAT, "messages": [{"role": "user", "content": text}]},
        "/v1/chat/completions": {**CHAT, "messages": [{"role": "user", "content": text}]},
        "/v1/completions": {**BODY, "prompt": text},
        "/v1/responses": {**BODY, "input": text},
        "/v1/messages": {**CHAT, "max_tokens": 8, "messages": [{"role": "user", "content": text}]},
        "/v1/messages/count_tokens": {**CHAT, "messages": [{"role": "user", "content": text}]},
    }
    async with serve(gateway) as http:
        for path, body in bodies.items():
            async with http.post(path, data=written(body)) as refused:
                assert (path, refused.status) == (path, 400)
                assert "8388608" in await refused.text()
    assert gateway.requests == []


@pytest.mark.parametrize("path", ["/api/generate", "/v1/chat/completions", "/v1/messages"])
async def test_errors_repeat_little_of_a_request(http: aiohttp.ClientSession, path: str) -> None:
    """A client's own text in an error is cut."""
    async with http.post(path, json={**CHAT, "max_tokens": 1, "prompt": "hi", "model": "m" * 100_000}) as refused:
        assert refused.status in (400, 404)
        assert len(await refused.read()) < 2_000
