"""Access control: CORS rules for origins, a Host check against DNS rebinding, and the rights of callers.

A web page in a browser on this machine can reach loopback. The Origin header names the page's origin. A page whose own
name resolves to loopback appears as the same origin; the Host header exposes it. Both checks follow Ollama's rules.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
from aiohttp import web

from vllama_balancer.callers import http_rights
from vllama_balancer.edge.dialect import normalize_path
from vllama_balancer.edge.http_errors import HttpError
from vllama_balancer.edge.request_stats import STATS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from vllama_balancer.callers import Access, Headers

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0")
_APP_ORIGINS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")

_STAINLESS = (
    *("arch", "async", "custom-poll-interval", "helper-method", "lang", "os", "package-version"),
    *("poll-helper", "retry-count", "runtime", "runtime-version", "timeout"),
)
_PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
    "Access-Control-Allow-Headers": ",".join(
        [
            *("Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With", "OpenAI-Beta"),
            *(f"x-stainless-{name}" for name in _STAINLESS),
        ]
    ),
    "Access-Control-Max-Age": "43200",
}

ALLOW_ORIGIN: web.RequestKey[str] = web.RequestKey("allow_origin", str)
"""Key of the Access-Control-Allow-Origin of a request's reply."""


@dataclass(frozen=True, slots=True)
class HostNames:
    """Names and addresses of this machine."""

    names: frozenset[str]
    """Host names, in lower case."""
    addresses: frozenset[str]
    """IP addresses of its interfaces."""


def this_host() -> HostNames:
    """Returns what the operating system says."""
    addresses = {
        address.address.partition("%")[0]
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family in (socket.AF_INET, socket.AF_INET6)
    }
    return HostNames(frozenset({socket.gethostname().lower()}), frozenset(addresses))


class AllowedOrigins:
    """The origins whose pages may send requests."""

    def __init__(self, configured: Iterable[str]) -> None:
        """Adds the built-in origins; "*" in a configured one matches anything."""
        patterns = [*configured, *_APP_ORIGINS]
        for scheme in ("http", "https"):
            for host in _LOCAL_HOSTS:
                patterns += [f"{scheme}://{host}", f"{scheme}://{host}:*"]
        self._any = "*" in patterns
        self._patterns = [_compile(pattern) for pattern in patterns]

    def allow(self, origin: str) -> str:
        """Returns the value of Access-Control-Allow-Origin; empty when the origin is not allowed."""
        if self._any:
            return "*"
        return origin if any(pattern.fullmatch(origin) for pattern in self._patterns) else ""


class AllowedHosts:
    """The values of the Host header that name this machine only."""

    def __init__(self, host_names: HostNames) -> None:
        self._host_names = host_names

    def allows(self, header: str) -> bool:
        """Returns whether a Host header names this machine or an address of a private network."""
        host = _host_only(header).lower()
        if host in ("", "localhost") or host in self._host_names.names or host.endswith(_LOCAL_SUFFIXES):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        local = address.is_loopback or address.is_private or address.is_unspecified
        return local or str(address) in self._host_names.addresses


class Guard:
    """The middleware that checks Origin and Host."""

    def __init__(self, origins: AllowedOrigins, hosts: AllowedHosts | None) -> None:
        """`hosts` is None if the edge is bound to more than loopback."""
        self._origins = origins
        self._hosts = hosts

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answers preflights. Raises HttpError 403 for another origin or host."""
        origin = request.headers.get("Origin", "")
        host = request.headers.get("Host", "")
        if origin and origin not in (f"http://{host}", f"https://{host}"):
            return await self._cross_origin(request, handler, origin)
        self._check_host(host)
        if request.method == "OPTIONS":
            return web.Response(status=204)
        return await handler(request)

    async def _cross_origin(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]], origin: str
    ) -> web.StreamResponse:
        allowed = self._origins.allow(origin)
        if not allowed:
            raise HttpError(403, f'origin "{origin}" is not allowed; OLLAMA_ORIGINS lists those that are')
        request[ALLOW_ORIGIN] = allowed
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=_PREFLIGHT_HEADERS)
        self._check_host(request.headers.get("Host", ""))
        return await handler(request)

    def _check_host(self, host: str) -> None:
        if self._hosts is not None and not self._hosts.allows(host):
            raise HttpError(403, f'host "{host}" is not allowed: it does not name this machine')


def cors_headers(request: web.Request) -> dict[str, str]:
    """Returns the headers that let the page read the reply; none without an Origin."""
    allowed = request.get(ALLOW_ORIGIN, "")
    if not allowed:
        return {}
    headers = {"Access-Control-Allow-Origin": allowed, "Access-Control-Expose-Headers": "X-Request-Id"}
    return headers if allowed == "*" else {**headers, "Vary": "Origin"}


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.IGNORECASE)


def _host_only(header: str) -> str:
    """Returns a Host header without port and without the brackets of an IPv6 address."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if header.count(":") == 1 else header


def headers_of(request: web.Request) -> Headers:
    """Returns a reader of a request's headers, for `callers`."""
    return lambda name: request.headers.getall(name, ())


class Authorization:
    """The middleware that finds out the caller, and whether it may do what it asks."""

    def __init__(self, access: Access) -> None:
        self._access = access

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Raises Unauthenticated or PermissionDenied."""
        rights = http_rights(normalize_path(request.path))
        request[STATS].caller = self._access.admitted(rights, request.remote, headers_of(request))
        return await handler(request)
