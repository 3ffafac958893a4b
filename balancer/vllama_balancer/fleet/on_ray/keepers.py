"""All workers of one cluster: one keeper for each, and the orders that they are given."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vllama_balancer.fleet.on_ray.keeper import Keeper
from vllama_balancer.fleet.on_ray.wire import Close, Restart, Retire, Start

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from vllama_balancer.fleet.events import FleetEvent
    from vllama_balancer.fleet.on_ray.seat import SeatMaker
    from vllama_balancer.fleet.on_ray.wire import Order
    from vllama_balancer.fleet.restarts import RestartSettings

logger = logging.getLogger(__name__)


class Keepers:
    """Owns the keepers and their tasks. `abandon` must be awaited at the end."""

    def __init__(self, make_seat: SeatMaker, settings: RestartSettings, tell: Callable[[FleetEvent], None]) -> None:
        self._make_seat = make_seat
        self._settings = settings
        self._tell = tell
        self._keepers: dict[str, tuple[Keeper, asyncio.Task[None]]] = {}
        self._errands: set[asyncio.Task[Any]] = set()
        self.is_closing = False
        """Whether the order to close has come; no other follows it."""

    def obey(self, order: Order) -> None:
        """Begins to carry out an order; the events tell what comes of it."""
        match order:
            case Start():
                self._start(order)
            case Restart(name, seconds) if name in self._keepers:
                self._errand(self._keepers[name][0].restart(seconds))
            case Retire(name, seconds) if name in self._keepers:
                self._errand(self._retire(name, seconds))
            case Close(seconds):
                self.is_closing = True
                for name in tuple(self._keepers):
                    self._errand(self._retire(name, seconds))

    async def closed(self) -> None:
        """Waits until the errands are done: after Close, until nothing runs on the cluster any more."""
        while self.is_closing and self._errands:
            await asyncio.wait(tuple(self._errands))

    async def abandon(self) -> None:
        """Ends all workers now."""
        for errand in tuple(self._errands):
            errand.cancel()
        for keeper, _ in self._keepers.values():
            keeper.kill()
        ending = [*self._errands, *(task for _, task in self._keepers.values())]
        await asyncio.gather(*ending, return_exceptions=True)

    def _start(self, order: Start) -> None:
        spec = order.worker_spec()
        settings = replace(self._settings, most_failed_starts=1) if order.fail_fast else self._settings
        keeper = Keeper(spec, self._make_seat, settings, self._tell)
        task = asyncio.create_task(keeper.run(), name=f"keeper of {spec.name}")
        task.add_done_callback(self._done)
        self._keepers[spec.name] = (keeper, task)

    async def _retire(self, name: str, drain_seconds: float) -> None:
        keeper, task = self._keepers[name]
        await keeper.stop(drain_seconds)
        await task
        # Its name may have been given again as soon as its end was told.
        if self._keepers.get(name) == (keeper, task):
            del self._keepers[name]

    def _errand(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the keeping of workers failed for a reason that nobody foresaw", exc_info=error)
