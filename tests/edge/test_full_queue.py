"""When the queue is full, requests are refused before they are translated."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from vllama_balancer.edge.http_errors import SERVER_BUSY
from vllama_balancer.errors import QueueFull
from vllama_balancer.fake_gateway import FakeGateway

if TYPE_CHECKING:
    import aiohttp

    from tests.edge.conftest import Serve

MODEL = "smollm2:135m"
HI = [{"role": "user", "content": "hi"}]
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/api/generate", {"prompt": "hi"}),
    ("/api/chat", {"messages": HI}),
    ("/api/embed", {"input": "hi"}),
    ("/api/embeddings", {"prompt": "hi"}),
    ("/v1/chat/completions", {"messages": HI}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/embeddings", {"input": "hi"}),
    ("/v1/messages", {"messages": HI, "max_tokens": 5}),
]


@pytest.fixture
def gateway() -> FakeGateway:
    """A gateway without room."""
    full = FakeGateway()
    full.full = QueueFull("512 requests wait already", retry_after_seconds=7)
    return full


@pytest.mark.parametrize(("path", "body"), REQUESTS, ids=[path for path, _ in REQUESTS])
async def test_it_answers_503_and_when_to_come_back(
    http: aiohttp.ClientSession, gateway: FakeGateway, path: str, body: dict[str, Any]
) -> None:
    """In the words that clients look for, in their dialect's shape, with all headers of any other reply."""
    async with http.post(path, json={"model": MODEL, **body}, headers={"X-Request-Id": "r-1"}) as reply:
        assert reply.status == 503
        assert SERVER_BUSY in await reply.text()
        assert reply.headers["Retry-After"] == "7"
        assert reply.headers["X-Request-Id"] == "r-1"
        assert reply.content_type == "application/json"
    assert not gateway.requests
    assert not gateway.embed_requests


@pytest.mark.parametrize(("path", "body"), [("/api/generate", {}), ("/api/chat", {"messages": []})])
async def test_models_can_still_be_loaded_and_unloaded(
    http: aiohttp.ClientSession, path: str, body: dict[str, Any]
) -> None:
    """An empty prompt waits in no queue."""
    async with http.post(path, json={"model": MODEL, "keep_alive": 0, **body}) as reply:
        assert (await reply.json())["done_reason"] == "unload"


async def test_refusals_are_summed_up_in_the_log(
    serve: Serve, gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for a burst, at the latest when the server ends; each of them is counted in the metrics."""
    registry = CollectorRegistry()
    with caplog.at_level(logging.INFO, "vllama_balancer.edge"):
        async with serve(gateway, registry=registry) as http:
            for _ in range(3):
                async with http.post("/api/chat", json={"model": MODEL, "messages": HI}) as reply:
                    await reply.read()
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.startswith("refused ") and line.endswith(" of 1 client: the queue is full") for line in lines)
    assert sum(int(line.split()[1]) for line in lines) == 3
    labels = {"path": "/api/chat", "status": "503"}
    assert registry.get_sample_value("vllama_http_requests_total", labels) == 3


async def test_each_refusal_has_a_line_at_debug_level(
    http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """So that one request can be found."""
    with caplog.at_level(logging.DEBUG, "vllama_balancer.edge"):
        async with http.post("/api/chat", json={"model": MODEL, "messages": HI}) as reply:
            await reply.read()
    assert [record.getMessage() for record in caplog.records if "POST /api/chat 503" in record.getMessage()]
