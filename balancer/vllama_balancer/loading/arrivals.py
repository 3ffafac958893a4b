"""Brings models to their first place: makes room for them, wakes or starts them, waits until they serve."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import TYPE_CHECKING

from vllama_balancer.errors import NoWorker
from vllama_balancer.loading.decisions import (
    EndSleeper,
    Evict,
    Refuse,
    Shrink,
    Take,
    Wait,
    Wake,
    Yield,
    next_step,
    relief,
)
from vllama_balancer.loading.gpu_room import TooLarge
from vllama_balancer.loading.progress_watch import until_ready

if TYPE_CHECKING:
    from vllama_balancer.loading.departures import Departures
    from vllama_balancer.loading.gpu_room import GpuRoom
    from vllama_balancer.loading.growth import Growth
    from vllama_balancer.loading.resident import Resident
    from vllama_balancer.loading.roster import Roster

logger = logging.getLogger(__name__)

DOES_NOT_FIT = "MODEL_DOES_NOT_FIT"
"""Reason of a refusal for want of memory."""


class Arrivals:
    """Loads models, one after the other as far as they compete for places."""

    def __init__(self, roster: Roster, growth: Growth, departures: Departures, gpus: GpuRoom) -> None:
        self._roster = roster
        self._growth = growth
        self._departures = departures
        self._gpus = gpus

    async def load(self, resident: Resident) -> None:
        """Returns when a model can serve. Raises NoWorker with the cause, and then nothing of it is left."""
        try:
            async with self._roster.taking_room:
                await self._settle(resident)
            await self.until_ready(resident)
        except NoWorker as error:
            logger.warning("%s cannot be loaded: %s", resident.name, error)
            await self._departures.leave(resident)
            raise

    async def until_ready(self, resident: Resident) -> None:
        """Returns when a model that has its place can serve. Raises NoWorker with the cause."""
        await until_ready(self._roster.pool, resident, self._roster.settings.stall_seconds)

    async def _settle(self, resident: Resident) -> None:
        """Goes step by step until the model has a place. Raises NoWorker when there is none ever."""
        while not resident.berths:
            await self._take_step(resident)
        # Who was to make way, and need not any more, goes on.
        for other in self._roster.residents.values():
            other.is_yielding = False
        self._roster.changes.tell()

    async def _take_step(self, resident: Resident) -> None:
        roster = self._roster
        version = roster.changes.version
        match next_step(roster.picture(), resident.key, roster.settings):
            case Take(place):
                await roster.sleepers.end(resident.key)
                await self._make_memory(resident, place)
                # Somebody waits: the cause now is worth more than a second try.
                roster.occupy(resident, place, gives_up_soon=True)
            case Wake(place):
                await self._make_memory(resident, place, is_asleep=True)
                resident.placed_at = roster.clock()
                if (berth := await roster.sleepers.wake(resident.key)) is not None:
                    resident.berths.append(berth)
            case Shrink(key, place):
                await self._growth.give_up(roster.residents[key], place)
            case Evict(key):
                roster.comebacks.sent_away(key, roster.clock(), roster.residents[key].load_seconds)
                await self._departures.leave(roster.residents[key], may_sleep=True)
            case Yield(key):
                logger.info("%s has had its turn and makes way for %s", roster.residents[key].name, resident.name)
                roster.residents[key].is_yielding = True
            case Refuse(reason):
                raise NoWorker(reason)
            case Wait(seconds):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(roster.changes.after(version), seconds)

    async def _make_memory(self, resident: Resident, place: int, *, is_asleep: bool = False) -> None:
        """Sees to it that the worker finds its memory on the GPU.

        Raises NoWorker with the numbers when it will not; one that sleeps there may try all the same.
        """
        roster = self._roster
        slot, places = roster.berths.slot(place), roster.berths.neighbours(place)
        if not places:
            return  # no GPU
        patience_until = roster.clock() + roster.settings.gpu_patience_seconds
        look = functools.partial(self._gpus.obstacle, resident.model, slot, is_asleep=is_asleep)
        while (found := await asyncio.to_thread(look)) is not None:
            step = None if isinstance(found, TooLarge) else relief(roster.picture(), resident.key, places)
            if isinstance(step, EndSleeper):
                await roster.sleepers.end(step.key)
            elif isinstance(step, Evict):
                await self._departures.leave(roster.residents[step.key])
            elif is_asleep:
                return
            elif isinstance(found, TooLarge) or roster.clock() >= patience_until:
                raise NoWorker(found.reason, reason=DOES_NOT_FIT)
            else:
                # The driver takes a moment to give back what a process had that has just ended.
                await asyncio.sleep(roster.settings.gpu_patience_seconds / 10)
