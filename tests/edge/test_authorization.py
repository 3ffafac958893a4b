"""Every request has a caller, and only does what its scopes let it."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from tests.edge.ollama.test_management import ScriptedManagement
from vllama_balancer.callers import Access
from vllama_balancer.edge.config import EdgeConfig
from vllama_balancer.edge.security import AllowedHosts, HostNames
from vllama_balancer.fake_gateway import FakeGateway, model
from vllama_balancer.keys import ApiKey, ApiKeys, Scope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

    from tests.edge.conftest import Serve


def key(owner: str, text: str, *scopes: Scope) -> ApiKey:
    return ApiKey(owner, hashlib.sha256(text.encode()).digest(), frozenset(scopes))


KEYS = ApiKeys(
    [
        key("alice", "secret", Scope.INFER),
        key("olga", "operator", Scope.FLEET, Scope.MODELS),
        key("prometheus", "scraper", Scope.METRICS),
    ]
)
REMOTE = Access(proxies=[ipaddress.ip_network("127.0.0.1")])
"""Trusts a proxy on this machine, so that a test can call from elsewhere."""
FROM_DOCKER = {"X-Forwarded-For": "172.17.0.2"}
BODY = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "hi"}], "stream": False}


@pytest.fixture
async def http(gateway: FakeGateway, serve: Serve) -> AsyncIterator[aiohttp.ClientSession]:
    """An edge with one key."""
    async with serve(gateway, access=Access(KEYS), management=ScriptedManagement()) as session:
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


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready"])
async def test_probes_need_no_key(http: aiohttp.ClientSession, path: str) -> None:
    """Load balancers send none."""
    async with http.get(path) as reply:
        assert reply.status == 200


@pytest.mark.parametrize("path", ["/metrics", "/fleet", "/api/tags", "//api/tags"])
async def test_everything_else_needs_one(http: aiohttp.ClientSession, path: str) -> None:
    """Untidy paths do not bypass the check."""
    async with http.get(f"{_origin(http)}{path}") as reply:
        assert reply.status == 401


async def test_a_preflight_needs_none(http: aiohttp.ClientSession) -> None:
    """Browsers send no key with it."""
    async with http.options("/api/chat", headers={"Origin": "http://localhost"}) as reply:
        assert reply.status == 204


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/api/create", "models"),
        ("POST", "/api/copy", "models"),
        ("DELETE", "/api/delete", "models"),
        ("POST", "/api/push", "models"),
        ("DELETE", "//api//delete/", "models"),
        ("POST", "/api%2Fcreate", "models"),
        ("GET", "/fleet", "fleet"),
        ("GET", "/fleet/", "fleet"),
        ("GET", "/metrics", "metrics"),
        ("HEAD", "/metrics", "metrics"),
    ],
)
async def test_a_key_for_inference_does_nothing_else(
    http: aiohttp.ClientSession, method: str, path: str, scope: str
) -> None:
    """403 names the scope and the line of the key file, whatever the spelling of the path."""
    url = URL(f"{_origin(http)}{path}", encoded=True)
    async with http.request(method, url, json={"model": "x"}, headers={"x-api-key": "secret"}) as reply:
        assert reply.status == 403
        if method != "HEAD":
            error = (await reply.json())["error"]
            assert f"the scope {scope}, and the key of alice has infer alone: write scope=infer,{scope}" in error


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat", "/api/tags", "/v1/models"])
async def test_other_keys_do_not_infer(http: aiohttp.ClientSession, gateway: FakeGateway, path: str) -> None:
    """The refusal has the shape of the dialect."""
    method = "POST" if path.endswith(("completions", "messages", "chat")) else "GET"
    async with http.request(method, path, json=BODY, headers={"x-api-key": "scraper"}) as reply:
        assert reply.status == 403
        error = (await reply.json())["error"]
    message = error if path.startswith("/api/") else error["message"]
    assert "needs the scope infer" in message
    if path == "/v1/messages":
        assert error["type"] == "permission_error"
    assert not gateway.requests


@pytest.mark.parametrize(
    ("method", "path", "key"),
    [("GET", "/metrics", "scraper"), ("GET", "/fleet", "operator"), ("POST", "/api/copy", "operator")],
)
async def test_a_key_does_what_its_scope_says(http: aiohttp.ClientSession, method: str, path: str, key: str) -> None:
    """Each of the other scopes opens its own paths."""
    body = {"source": "smollm2:135m", "destination": "mine"}
    async with http.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"}) as reply:
        assert reply.status == 200


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}])
async def test_health_tells_a_stranger_up_or_not(
    http: aiohttp.ClientSession, headers: dict[str, str], serve: Serve
) -> None:
    """Nothing of models, workers or failures; the status code is for load balancers."""
    async with http.get("/health", headers=headers) as reply:
        assert (reply.status, await reply.json()) == (200, {"status": "ok"})
    empty = serve(FakeGateway(model(replicas=0)), access=Access(KEYS))
    async with empty as down, down.get("/health", headers=headers) as reply:
        assert (reply.status, await reply.json()) == (503, {"status": "unavailable"})


async def test_health_tells_a_caller_from_elsewhere_up_or_not(gateway: FakeGateway, serve: Serve) -> None:
    """Without keys the details are for this machine, and for those who may list the fleet."""
    async with serve(gateway, access=REMOTE) as http:
        async with http.get("/health", headers=FROM_DOCKER) as reply:
            assert await reply.json() == {"status": "ok"}
        async with http.get("/health") as reply:
            assert "workers" in await reply.json()
    access = Access(anonymous=frozenset({Scope.FLEET}), proxies=REMOTE._proxies)
    async with serve(gateway, access=access) as http, http.get("/health", headers=FROM_DOCKER) as reply:
        assert "workers" in await reply.json()


async def test_health_tells_a_caller_with_a_key_everything(http: aiohttp.ClientSession) -> None:
    """Any key will do."""
    async with http.get("/health", headers={"x-api-key": "secret"}) as reply:
        assert "workers" in await reply.json()


async def test_without_keys_this_machine_may_do_everything(gateway: FakeGateway, serve: Serve) -> None:
    """As with Ollama."""
    async with serve(gateway, management=ScriptedManagement()) as http:
        for path in ("/api/tags", "/fleet", "/metrics"):
            async with http.get(path) as reply:
                assert reply.status == 200
        async with http.delete("/api/delete", json={"model": "x"}) as reply:
            assert reply.status == 200


async def test_open_webui_from_its_container(gateway: FakeGateway, serve: Serve) -> None:
    """It lists and chats; changing models is refused with the flags that allow it."""
    async with serve(gateway, access=REMOTE, management=ScriptedManagement()) as http:
        for path in ("/api/version", "/api/tags", "/api/ps", "/v1/models", "/metrics", "/"):
            async with http.get(path, headers=FROM_DOCKER) as reply:
                assert reply.status == 200
        chat = {**BODY, "stream": True, "options": {"temperature": 0.8}, "keep_alive": "5m"}
        for path, body in (
            ("/api/show", {"name": "smollm2:135m"}),
            ("/api/chat", chat),
            ("/v1/chat/completions", BODY),
        ):
            async with http.post(path, json=body, headers=FROM_DOCKER) as reply:
                assert reply.status == 200
        refused = [
            ("DELETE", "/api/delete", {"name": "smollm2:135m", "model": "smollm2:135m"}),
            ("POST", "/api/create", {"model": "mine", "from": "smollm2:135m", "system": "x"}),
            ("POST", "/api/copy", {"source": "smollm2:135m", "destination": "mine"}),
        ]
        for method, path, body in refused:
            async with http.request(method, path, json=body, headers=FROM_DOCKER) as reply:
                assert reply.status == 403
                assert "--anonymous-scopes infer,models,metrics" in (await reply.json())["error"]
    assert {call.client for call in gateway.calls} == {"172.17.0.2"}


@pytest.mark.parametrize("name", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
async def test_what_a_proxy_forwards_comes_from_elsewhere(gateway: FakeGateway, serve: Serve, name: str) -> None:
    """Also when the proxy runs on this machine; its own address is the caller's."""
    async with serve(gateway, management=ScriptedManagement()) as http:
        async with http.delete("/api/delete", json={"model": "x"}, headers={name: "127.0.0.1"}) as reply:
            assert reply.status == 403
        async with http.post("/api/chat", json=BODY, headers={name: "192.0.2.7"}) as reply:
            assert reply.status == 200
    assert [call.client for call in gateway.calls] == ["127.0.0.1"]


async def test_a_rebound_page_is_not_local_on_a_public_edge(gateway: FakeGateway, serve: Serve) -> None:
    """Where any Host is served, a foreign one has the rights of callers from elsewhere."""
    hosts = AllowedHosts(HostNames(frozenset(), frozenset()))
    config, headers = EdgeConfig(loopback_only=False), {"Host": "evil.com", "Origin": "http://evil.com"}
    async with serve(gateway, config, access=Access(is_own_host=hosts.allows)) as http:
        async with http.get("/fleet", headers=headers) as reply:
            assert reply.status == 403
        async with http.get("/api/tags", headers=headers) as reply:
            assert reply.status == 200


def _origin(http: aiohttp.ClientSession) -> str:
    assert http._base_url is not None
    return str(http._base_url.origin())
