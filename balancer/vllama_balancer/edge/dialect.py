"""A dialect: one API's paths, and the shape of its errors.

The edge is put together from dialects that know nothing of one another. Everything that can go
wrong around a handler (an unknown path, a missing key, a body too large) is answered in the
shape of the dialect whose prefix the path has.

Lets untidy paths (a trailing slash, a doubled one) reach the handler of the tidy path.

Ollama redirects, but a redirect turns some clients' POST into a GET, so the handler is called
straight away. Exact routes are tried first and cost nothing; only what they do not match comes
here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllama_balancer.edge.context import HandlerContext


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API."""

    prefix: str
    """Paths that begin with it get this dialect's errors; the longest prefix wins. "/" is any."""
    routes: Callable[[HandlerContext], Sequence[web.RouteDef]]
    """Makes the handlers, bound to an edge."""
    error_body: Callable[[int, str, str], object]
    """From an HTTP status, a sentence and the request's id to the JSON value to answer with."""


def dialect_of(path: str, dialects: Sequence[Dialect]) -> Dialect:
    """Finds the dialect that a path belongs to; one of them must have the prefix "/"."""
    return max((each for each in dialects if path.startswith(each.prefix)), key=lambda each: len(each.prefix))


if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_SLASHES = re.compile(r"/{2,}")


def normalize_path(path: str) -> str:
    """Removes doubled and trailing slashes."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"


def add_normalized_routes(router: web.UrlDispatcher) -> None:
    """Adds a route behind all others that retries with the tidy path.

    It also makes the 404 for an unknown path and the 405 for a known one with a wrong method.
    """
    routes = _NormalizedRoutes(router)
    router.add_route("*", "/{path:.*}", routes.retry)


class _NormalizedRoutes:
    """The handlers of all fixed paths."""

    def __init__(self, router: web.UrlDispatcher) -> None:
        self._handlers: dict[str, dict[str, Handler]] = {}
        for path, method, handler in _fixed_routes(router):
            self._handlers.setdefault(path, {})[method] = handler

    async def retry(self, request: web.Request) -> web.StreamResponse:
        """Serves a request whose path is known once it is tidy. Raises 404 or 405."""
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
