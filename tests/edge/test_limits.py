"""One client cannot take all streams, and a process that drains starts none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from vllama_balancer.edge.app import CONTEXT, build_app
from vllama_balancer.edge.config import EdgeConfig
from vllama_balancer.edge.context import StreamLimit
from vllama_balancer.edge.http_errors import HttpError
from vllama_balancer.edge.server import EdgeServer
from vllama_balancer.fake_gateway import FakeFleet, FakeGateway, delta, finished, started

if TYPE_CHECKING:
    from tests.edge.conftest import Serve

BODY = {"model": "smollm2:135m", "prompt": "hi"}


def test_the_limit_is_per_client_and_is_given_back() -> None:
    """The count falls when the block ends, however it ends."""
    limit = StreamLimit(1)
    with limit.hold("a"), limit.hold("b"), pytest.raises(HttpError, match="1 of this client") as caught:
        limit.hold("a").__enter__()
    assert caught.value.http_status == 429
    with pytest.raises(RuntimeError), limit.hold("a"):
        raise RuntimeError
    assert limit.running("a") == limit.running("b") == 0


async def test_too_many_streams_of_one_client_are_429(serve: Serve) -> None:
    """The refusal has Retry-After; after the running streams, requests are served again."""
    gateway, go_on = FakeGateway(), asyncio.Event()
    gateway.play(started(), delta("a"), go_on, finished())
    async with serve(gateway, EdgeConfig(max_streams_per_client=1)) as http:
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
            assert (await refused.json())["error"] == "the server is shutting down"
        go_on.set()
        assert len((await running.read()).splitlines()) == 2
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
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await writer.wait_closed()


def test_the_edge_is_found_in_its_application() -> None:
    """The server of an application can reach its context."""
    assert build_app(FakeGateway(), fleet=FakeFleet())[CONTEXT].draining is False
