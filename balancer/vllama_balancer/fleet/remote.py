"""Workers that somebody else runs, at addresses that are given once.

Workers behind a DNS name: every address that it resolves to is one worker.

Resolved again every few seconds, so that workers join and leave as records come and go. A failed lookup
changes nothing: a name server's bad moment must not empty the fleet.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Protocol

from vllama_balancer.fleet.events import Added, Removed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from vllama_balancer.fleet.events import FleetEvent


class StaticFleet:
    """Announces fixed addresses; whether anybody answers there is for the pool to find out."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = tuple(dict.fromkeys(addresses))

    async def events(self) -> AsyncIterator[FleetEvent]:
        """Yields every address once, named by itself, and then waits for ever."""
        for address in self._addresses:
            yield Added(name=address, address=address)
        await asyncio.Event().wait()


logger = logging.getLogger(__name__)

DNS_SCHEME = "dns:///"
RESOLVE_INTERVAL_SECONDS = 5.0
"""Between two lookups."""


class Resolver(Protocol):
    """Looks a name up."""

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Lists its addresses as "host:port". Raises OSError."""
        ...


async def system_resolve(host: str, port: int) -> Sequence[str]:
    """Asks the system's resolver."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = {(family, target[0]) for family, _, _, _, target in found}
    return [f"[{name}]:{port}" if family == socket.AF_INET6 else f"{name}:{port}" for family, name in addresses]


class DnsFleet:
    """Follows one name."""

    def __init__(
        self,
        target: str,
        resolve: Resolver = system_resolve,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        host, _, port = target.removeprefix(DNS_SCHEME).rpartition(":")
        self._host, self._port = host, int(port)
        self._resolve = resolve
        self._pause = pause

    async def events(self) -> AsyncIterator[FleetEvent]:
        """Yields the workers that the name stands for, as they come and go."""
        known: set[str] = set()
        while True:
            try:
                found = set(await self._resolve(self._host, self._port))
            except OSError as error:
                logger.warning("%s cannot be resolved, the workers stay as they are: %s", self._host, error)
                found = known
            for address in sorted(found - known):
                yield Added(name=address, address=address)
            for address in sorted(known - found):
                yield Removed(name=address, reason=f"left {self._host}")
            known = found
            await self._pause(RESOLVE_INTERVAL_SECONDS)
