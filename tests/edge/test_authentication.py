"""With a key file every request needs a key, in the header of its dialect."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.keys import ApiKeys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

    from tests.edge.conftest import Serve
    from vllama_balancer.fake_gateway import FakeGateway

KEYS = ApiKeys({"alice": hashlib.sha256(b"secret").digest()})
BODY = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "hi"}], "stream": False}


@pytest.fixture
async def http(gateway: FakeGateway, serve: Serve) -> AsyncIterator[aiohttp.ClientSession]:
    """An edge with one key."""
    async with serve(gateway, keys=KEYS) as session:
        yield session


@pytest.mark.parametrize(
    "headers", [{"Authorization": "Bearer secret"}, {"authorization": "bearer  secret "}, {"X-Api-Key": "secret"}]
)
async def test_a_good_key_names_the_caller(
    http: aiohttp.ClientSession, gateway: FakeGateway, headers: dict[str, str]
) -> None:
    """Queueing and limits are per name of a key, never per key."""
    async with http.post("/api/chat", json=BODY, headers=headers) as reply:
        assert reply.status == 200
    assert gateway.calls[0].client == "key:alice"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic secret"},
        {"X-Api-Key": "wröng"},
    ],
)
async def test_no_key_or_a_wrong_one_is_401(
    http: aiohttp.ClientSession, gateway: FakeGateway, headers: dict[str, str]
) -> None:
    """The refusal has Ollama's shape, and nothing was generated."""
    async with http.post("/api/chat", json=BODY, headers=headers) as reply:
        assert reply.status == 401
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert "API key is required" in (await reply.json())["error"]
    assert not gateway.requests


async def test_the_refusal_has_the_shape_of_the_dialect(http: aiohttp.ClientSession) -> None:
    """OpenAI's and Anthropic's clients read their own error objects."""
    async with http.post("/v1/chat/completions", json=BODY) as reply:
        assert reply.status == 401
        assert "API key is required" in (await reply.json())["error"]["message"]
    async with http.post("/v1/messages", json=BODY) as reply:
        assert (await reply.json())["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("path", ["/", "/health", "/health/live"])
async def test_probes_need_no_key(http: aiohttp.ClientSession, path: str) -> None:
    """Load balancers send none."""
    async with http.get(path) as reply:
        assert reply.status == 200


@pytest.mark.parametrize("path", ["/metrics", "/fleet", "/api/tags", "//api/tags"])
async def test_everything_else_needs_one(http: aiohttp.ClientSession, path: str) -> None:
    """Untidy paths do not bypass the check."""
    url = http._base_url
    assert url is not None
    async with http.get(f"{url.origin()}{path}") as reply:
        assert reply.status == 401


async def test_a_preflight_needs_none(http: aiohttp.ClientSession) -> None:
    """Browsers send no key with it."""
    async with http.options("/api/chat", headers={"Origin": "http://localhost"}) as reply:
        assert reply.status == 204
