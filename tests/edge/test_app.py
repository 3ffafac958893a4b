"""The application answers every path and method in the shape of its dialect."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.fake_gateway import FakeGateway, model
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    import aiohttp

    from vllama_balancer.gateway import ModelEntry


@pytest.mark.parametrize("path", ["/api/version", "/api/version/", "/api//version", "/api/version//"])
async def test_untidy_paths_reach_the_same_handler(http: aiohttp.ClientSession, path: str) -> None:
    """Trailing and doubled slashes are ignored."""
    async with http.get(path, allow_redirects=False) as reply:
        assert reply.status == 200
        assert list(await reply.json()) == ["version"]


async def test_an_unknown_path_is_404_as_json(http: aiohttp.ClientSession) -> None:
    """An unknown path has the native error's shape."""
    async with http.get("/api/nothing") as reply:
        assert reply.status == 404
        assert await reply.json() == {"error": "/api/nothing not found"}


async def test_a_wrong_method_is_405_as_json(http: aiohttp.ClientSession) -> None:
    """A known path with a wrong method is 405."""
    async with http.delete("/api/version") as reply:
        assert reply.status == 405
        assert await reply.json() == {"error": "method DELETE is not allowed for /api/version"}


async def test_head_has_no_body(http: aiohttp.ClientSession) -> None:
    """Clients probe with HEAD before anything else."""
    async with http.head("/") as reply:
        assert reply.status == 200
        assert await reply.read() == b""


async def test_the_request_id_is_honoured_and_returned(http: aiohttp.ClientSession) -> None:
    """A valid client id is echoed, an invalid one replaced."""
    async with http.get("/", headers={"X-Request-Id": "mine-1"}) as reply:
        assert reply.headers["X-Request-Id"] == "mine-1"
    async with http.get("/", headers={"X-Request-Id": "has blanks"}) as reply:
        assert len(reply.headers["X-Request-Id"]) == 32


async def test_the_product_is_in_the_server_header(http: aiohttp.ClientSession) -> None:
    """The API's version is Ollama's; the product has its own."""
    async with http.get("/api/version") as reply:
        assert reply.headers["Server"].startswith("vllama/")
        assert reply.headers["Server"].removeprefix("vllama/") != (await reply.json())["version"]


@pytest.mark.parametrize("path", ["/", "/api/version", "/v1/models", "/nowhere"])
async def test_no_browser_guesses_what_a_reply_is(http: aiohttp.ClientSession, path: str) -> None:
    """A model's text within JSON never becomes a page."""
    async with http.get(path) as reply:
        assert reply.headers["X-Content-Type-Options"] == "nosniff"


class Installing(FakeGateway):
    """A gateway whose model is announced late."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.installed = asyncio.Event(), asyncio.Event()

    async def find_or_wait(self, name: str, deadline: float | None = None) -> ModelEntry | None:
        """Waits until the model is announced."""
        self.asked.set()
        await self.installed.wait()
        return self.find(name)


HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": HI, "stream": False}),
        ("/api/generate", {"prompt": "hi", "stream": False}),
        ("/api/embed", {"input": "hi"}),
        ("/api/embeddings", {"prompt": "hi"}),
        ("/api/show", {}),
        ("/v1/chat/completions", {"messages": HI}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/v1/messages", {"messages": HI, "max_tokens": 5}),
        ("/v1/messages/count_tokens", {"messages": HI}),
    ],
)
async def test_a_model_that_is_on_its_way_is_waited_for(serve, path: str, body: dict) -> None:
    """Shortly after the start no dialect replies that a model is not found."""
    gateway = Installing()
    async with serve(gateway) as http:
        asking = asyncio.create_task(http.post(path, json={"model": "late:1b", **body}))
        await gateway.asked.wait()
        able = [worker_pb2.CAPABILITY_COMPLETION, worker_pb2.CAPABILITY_CHAT, worker_pb2.CAPABILITY_EMBEDDING]
        gateway.entries.append(model("late:1b", capabilities=able))
        gateway.installed.set()
        async with await asking as reply:
            assert reply.status == 200, await reply.text()
