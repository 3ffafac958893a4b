"""The application answers every path and method in the shape of its dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import aiohttp


@pytest.mark.parametrize("path", ["/api/version", "/api/version/", "/api//version", "/api/version//"])
async def test_untidy_paths_reach_the_same_handler(http: aiohttp.ClientSession, path: str) -> None:
    """Trailing and doubled slashes do not matter."""
    async with http.get(path, allow_redirects=False) as reply:
        assert reply.status == 200
        assert list(await reply.json()) == ["version"]


async def test_an_unknown_path_is_404_as_json(http: aiohttp.ClientSession) -> None:
    """An unknown path has the native error's shape."""
    async with http.get("/api/nothing") as reply:
        assert reply.status == 404
        assert await reply.json() == {"error": "/api/nothing not found"}


async def test_a_wrong_method_is_405_as_json(http: aiohttp.ClientSession) -> None:
    """A known path with a wrong method says so."""
    async with http.delete("/api/version") as reply:
        assert reply.status == 405
        assert await reply.json() == {"error": "method DELETE is not allowed for /api/version"}


async def test_head_has_no_body(http: aiohttp.ClientSession) -> None:
    """Clients probe with HEAD before anything else."""
    async with http.head("/") as reply:
        assert reply.status == 200
        assert await reply.read() == b""


async def test_the_request_id_is_honoured_and_returned(http: aiohttp.ClientSession) -> None:
    """A client's id comes back, and a bad one is replaced."""
    async with http.get("/", headers={"X-Request-Id": "mine-1"}) as reply:
        assert reply.headers["X-Request-Id"] == "mine-1"
    async with http.get("/", headers={"X-Request-Id": "has blanks"}) as reply:
        assert len(reply.headers["X-Request-Id"]) == 32


async def test_the_product_is_in_the_server_header(http: aiohttp.ClientSession) -> None:
    """The API's version is Ollama's; the product has its own."""
    async with http.get("/api/version") as reply:
        assert reply.headers["Server"].startswith("vllama/")
        assert reply.headers["Server"].removeprefix("vllama/") != (await reply.json())["version"]
