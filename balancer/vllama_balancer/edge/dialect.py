"""A dialect: one API's paths and the shape of its errors; and the routing of paths with untidy slashes.

Dialects do not import one another. Errors outside of a handler (unknown path, missing key, body too large) have the
shape of the dialect whose prefix the path has.

A path with a trailing or doubled slash is served by the handler of the normalized path. Ollama redirects, but some
clients turn a redirected POST into a GET. Exact routes are tried first, so such paths cost them nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from vllama_balancer.edge.context import HandlerContext

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_SLASHES = re.compile(r"/{2,}")


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API."""

    prefix: str
    """Paths with this prefix get the dialect's errors; the longest prefix wins."""
    routes: Callable[[HandlerContext], Sequence[web.RouteDef]]
    """Makes the routes, bound to a context."""
    error_body: Callable[[int, str, str], object]
    """From HTTP status, message and request id to the body's JSON value."""


def dialect_of(path: str, dialects: Sequence[Dialect]) -> Dialect:
    """Returns the dialect of a path; one of them must have the prefix "/"."""
    return max((each for each in dialects if path.startswith(each.prefix)), key=lambda each: len(each.prefix))


def normalize_path(path: str) -> str:
    """Removes doubled and trailing slashes."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"


def add_normalized_routes(router: web.UrlDispatcher) -> None:
    """Adds a route behind all others that retries with the normalized path.

    It also raises 404 for an unknown path, and 405 for a known one with a wrong method.
    """
    routes = _NormalizedRoutes(router)
    router.add_route("*", "/{path:.*}", routes.retry)


class _NormalizedRoutes:
    """The handlers of all fixed paths, by path and method."""

    def __init__(self, router: web.UrlDispatcher) -> None:
        self._handlers: dict[str, dict[str, Handler]] = {}
        for path, method, handler in _fixed_routes(router):
            self._handlers.setdefault(path, {})[method] = handler

    async def retry(self, request: web.Request) -> web.StreamResponse:
        """Serves a request by its normalized path. Raises 404 or 405."""
        methods = self._handlers.get(normalize_path(request.path))
        if methods is None:
            raise web.HTTPNotFound
        if request.method not in methods:
            raise web.HTTPMethodNotAllowed(request.method, methods)
        return await methods[request.method](request)


def _fixed_routes(router: web.UrlDispatcher) -> Iterator[tuple[str, str, Handler]]:
    for route in router.routes():
        if isinstance(route.resource, web.PlainResource):
            yield route.resource.canonical, route.method, route.handler
