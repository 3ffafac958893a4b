"""Asks for an API key where keys are configured, in the caller's own dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from vllama_balancer.edge.trace import TRACE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllama_balancer.keys import ApiKeys

OPEN_PATHS = frozenset({"/", "/health", "/health/live"})
"""What load balancers probe; tells nothing about models or requests."""


class Authentication:
    """The middleware that knows callers by their keys; without keys everybody may call."""

    def __init__(self, keys: ApiKeys | None) -> None:
        self._keys = keys

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Raises Unauthenticated for a missing or wrong key; else notes whose key it is."""
        if self._keys is not None and request.path not in OPEN_PATHS:
            request[TRACE].client = f"key:{self._keys.owner_of(request.headers)}"
        return await handler(request)
