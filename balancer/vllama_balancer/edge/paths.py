"""Lets untidy paths (a trailing slash, a doubled one) reach the handler of the tidy path.

Ollama redirects, but a redirect turns some clients' POST into a GET, so the handler is called
straight away. Exact routes are tried first and cost nothing; only what they do not match comes
here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_SLASHES = re.compile(r"/{2,}")


def tidy_path(path: str) -> str:
    """Removes doubled and trailing slashes."""
    return _SLASHES.sub("/", path).rstrip("/") or "/"


def add_tidy_paths(router: web.UrlDispatcher) -> None:
    """Adds a route behind all others that retries with the tidy path.

    It also makes the 404 for an unknown path and the 405 for a known one with a wrong method.
    """
    known = _Known(router)
    router.add_route("*", "/{path:.*}", known.retry)


class _Known:
    """The handlers of all fixed paths."""

    def __init__(self, router: web.UrlDispatcher) -> None:
        self._handlers: dict[str, dict[str, Handler]] = {}
        for path, method, handler in _fixed_routes(router):
            self._handlers.setdefault(path, {})[method] = handler

    async def retry(self, request: web.Request) -> web.StreamResponse:
        """Serves a request whose path is known once it is tidy. Raises 404 or 405."""
        methods = self._handlers.get(tidy_path(request.path))
        if methods is None:
            raise web.HTTPNotFound
        if request.method not in methods:
            raise web.HTTPMethodNotAllowed(request.method, methods)
        return await methods[request.method](request)


def _fixed_routes(router: web.UrlDispatcher) -> Iterator[tuple[str, str, Handler]]:
    for route in router.routes():
        if isinstance(route.resource, web.PlainResource):
            yield route.resource.canonical, route.method, route.handler
