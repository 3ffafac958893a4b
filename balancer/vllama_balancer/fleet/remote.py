"""Workers that are started elsewhere: at given addresses, or behind a DNS name.

A DNS name is resolved again every few seconds: each address is one worker. A failed lookup changes nothing, so that
an outage of the name server does not empty the fleet. Some resolvers answer with a part of the records only, another
one each time: an address has to be missing from many answers in a row before its worker is removed. A worker that has
ended meanwhile gets no requests, because nothing answers there.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

from vllama_balancer.fleet.events import Added, Removed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from vllama_balancer.fleet.events import FleetEvent

logger = logging.getLogger(__name__)

DNS_SCHEME = "dns:///"
RESOLVE_INTERVAL_SECONDS = 5.0
LOOKUPS_TO_LEAVE = 12
"""Answers in a row without an address after which its worker is removed: a minute."""


class StaticFleet:
    """Fixed addresses; the pool finds out whether a worker answers there."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = tuple(dict.fromkeys(addresses))

    async def events(self) -> AsyncIterator[FleetEvent]:
        """Yields every address once, as its own name, and then waits for ever."""
        for address in self._addresses:
            yield Added(name=address, address=address)
        await asyncio.Event().wait()


async def system_resolve(host: str, port: int) -> Sequence[str]:
    """Returns the addresses of a name as "host:port", by the system's resolver. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = {(family, target[0]) for family, _, _, _, target in found}
    return [f"[{name}]:{port}" if family == socket.AF_INET6 else f"{name}:{port}" for family, name in addresses]


class DnsFleet:
    """The addresses of one DNS name."""

    def __init__(
        self,
        target: str,
        resolve: Callable[[str, int], Awaitable[Sequence[str]]] = system_resolve,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        host, _, port = target.removeprefix(DNS_SCHEME).rpartition(":")
        self._host, self._port = host, int(port)
        self._resolve = resolve
        self._pause = pause

    async def events(self) -> AsyncIterator[FleetEvent]:
        """Yields Added and Removed as addresses come and go."""
        missing: dict[str, int] = {}
        while True:
            try:
                found = set(await self._resolve(self._host, self._port))
            except OSError as error:
                logger.warning("%s cannot be resolved, its workers stay: %s", self._host, error)
            else:
                for address in sorted(found - missing.keys()):
                    yield Added(name=address, address=address)
                missing = {
                    address: 0 if address in found else missing[address] + 1 for address in missing.keys() | found
                }
                for address in sorted(address for address, times in missing.items() if times >= LOOKUPS_TO_LEAVE):
                    del missing[address]
                    yield Removed(name=address, reason=f"left {self._host}")
            await self._pause(RESOLVE_INTERVAL_SECONDS)
