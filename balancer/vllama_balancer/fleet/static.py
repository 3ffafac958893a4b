"""Workers that somebody else runs, at addresses that are given once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllama_balancer.fleet.events import Added

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

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
