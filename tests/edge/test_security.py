"""Foreign pages are refused, local ones and apps are served, and requests without an Origin are not affected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vllama_balancer.edge.config import EdgeConfig
from vllama_balancer.edge.security import AllowedHosts, AllowedOrigins, HostNames, this_host
from vllama_balancer.fake_gateway import FakeGateway

if TYPE_CHECKING:
    import aiohttp

    from tests.edge.conftest import Serve

MACHINE = HostNames(frozenset({"workstation"}), frozenset({"8.8.4.4"}))


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "http://localhost:3000",
        "https://127.0.0.1:8443",
        "http://0.0.0.0",
        "app://obsidian.md",
        "file://",
        "tauri://localhost",
        "vscode-webview://x",
        "vscode-file://vscode-app",
        "https://chat.example.org",
        "https://a.b.example.org",
        "chrome-extension://abc",
    ],
)
def test_allowed_origins(origin: str) -> None:
    """Local pages, apps and what is configured, wildcards included."""
    origins = AllowedOrigins(["https://*.example.org", "chrome-extension://*"])
    assert origins.allow(origin) == origin


@pytest.mark.parametrize(
    "origin", ["http://evil.com", "http://localhost.evil.com", "http://evil.com/localhost", "moz-extension://x", "null"]
)
def test_other_origins_are_refused(origin: str) -> None:
    """A name that only looks local is not."""
    assert AllowedOrigins([]).allow(origin) == ""


def test_any_origin() -> None:
    """A star allows every origin, and is sent to the browser."""
    assert AllowedOrigins(["*"]).allow("http://evil.com") == "*"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "LOCALHOST:11434",
        "127.0.0.1:11434",
        "[::1]:11434",
        "[::1]",
        "::1",
        "0.0.0.0:1",
        "192.168.1.7:11434",
        "10.0.0.1",
        "8.8.4.4:11434",
        "workstation:11434",
        "ollama.localhost",
        "nas.local:11434",
        "host.docker.internal:11434",
    ],
)
def test_local_hosts(host: str) -> None:
    """Every way to name this machine or its network."""
    assert AllowedHosts(MACHINE).allows(host)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.com", "evil.com:11434", "8.8.8.8", "localhost.evil.com", "local", "1.2.3"),
        *("x.localhost.evil.com", "nas.local.evil.com:11434", "host.internal.evil.com", "evil.com.", "workstation.com"),
    ],
)
def test_foreign_hosts(host: str) -> None:
    """A name that resolves to loopback from outside is not this machine's."""
    assert not AllowedHosts(MACHINE).allows(host)


def test_this_machine_has_names_and_addresses() -> None:
    """At least loopback is there."""
    machine = this_host()
    assert machine.names
    assert "127.0.0.1" in machine.addresses


async def test_a_preflight_is_answered_on_any_path(http: aiohttp.ClientSession) -> None:
    """A browser sends a preflight before it posts JSON."""
    async with http.options("/api/chat", headers={"Origin": "http://localhost:3000"}) as reply:
        assert reply.status == 204
        assert reply.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
        assert reply.headers["Access-Control-Allow-Methods"] == "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
        allowed = reply.headers["Access-Control-Allow-Headers"].split(",")
        assert {"Authorization", "Content-Type", "OpenAI-Beta", "x-stainless-retry-count"} <= set(allowed)
        assert reply.headers["Access-Control-Max-Age"] == "43200"
        assert reply.headers["Vary"] == "Origin"


@pytest.mark.parametrize("path", ["/api/version", "/api/nothing"])
async def test_replies_and_errors_carry_the_origin(http: aiohttp.ClientSession, path: str) -> None:
    """A page can read its errors as well."""
    async with http.get(path, headers={"Origin": "http://localhost"}) as reply:
        assert reply.headers["Access-Control-Allow-Origin"] == "http://localhost"


async def test_streams_carry_the_origin(http: aiohttp.ClientSession) -> None:
    """Headers of a stream are no exception."""
    body = {"model": "smollm2:135m", "prompt": "hi"}
    async with http.post("/api/generate", json=body, headers={"Origin": "http://localhost"}) as reply:
        assert reply.headers["Access-Control-Allow-Origin"] == "http://localhost"


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
async def test_a_foreign_origin_is_403_on_any_method(http: aiohttp.ClientSession, method: str) -> None:
    """A foreign page gets nothing."""
    async with http.request(method, "/api/version", headers={"Origin": "http://evil.com"}) as reply:
        assert reply.status == 403
        assert 'origin "http://evil.com" is not allowed' in (await reply.json())["error"]


async def test_a_foreign_host_is_403(http: aiohttp.ClientSession) -> None:
    """Rebinding: the name is foreign though the address is loopback, and the origin agrees with it."""
    headers = {"Host": "evil.com:11434", "Origin": "http://evil.com:11434"}
    for method in ("GET", "OPTIONS"):
        async with http.request(method, "/api/version", headers=headers) as reply:
            assert reply.status == 403
    async with http.options("/api/chat") as reply:
        assert reply.status == 204


@pytest.mark.parametrize("origin", ["http://localhost:3000", "app://obsidian.md", "file://"])
async def test_an_allowed_origin_does_not_make_a_foreign_host_right(http: aiohttp.ClientSession, origin: str) -> None:
    """Any page may be opened as a file: the name that it asked for still has to be this machine's."""
    async with http.get("/api/version", headers={"Host": "evil.com:11434", "Origin": origin}) as reply:
        assert reply.status == 403
        assert 'host "evil.com:11434" is not allowed' in (await reply.json())["error"]
    async with http.get("/api/version", headers={"Origin": origin}) as reply:
        assert reply.status == 200


async def test_any_host_where_the_edge_is_public(serve: Serve) -> None:
    """Beyond loopback any host name is accepted."""
    config = EdgeConfig(loopback_only=False)
    headers = {"Host": "llm.example.com"}
    async with serve(FakeGateway(), config) as http, http.get("/api/version", headers=headers) as reply:
        assert reply.status == 200


async def test_without_an_origin_there_is_no_cors(http: aiohttp.ClientSession) -> None:
    """Node's fetch sends Sec-Fetch-Mode without an Origin."""
    async with http.get("/api/version", headers={"Sec-Fetch-Mode": "cors"}) as reply:
        assert reply.status == 200
        assert "Access-Control-Allow-Origin" not in reply.headers
