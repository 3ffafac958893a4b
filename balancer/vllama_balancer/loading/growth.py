"""Gives models more workers while requests wait for room on all that they have, and takes them back."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from vllama_balancer.loading.decisions import growth, refill
from vllama_balancer.loading.fullness import note_fullness

if TYPE_CHECKING:
    from vllama_balancer.loading.resident import Resident
    from vllama_balancer.loading.roster import Roster

logger = logging.getLogger(__name__)


class Growth:
    """Changes how many places each model has. `run` it in a task."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    async def run(self) -> None:
        """Looks again and again until cancelled."""
        roster = self._roster
        while True:
            await asyncio.sleep(roster.settings.look_seconds)
            for resident in roster.residents.values():
                self.forget_retired(resident)
                note_fullness(resident, roster.pool, roster.clock())
            if not roster.taking_room.locked():
                self._grow()

    def refill(self) -> None:
        """Gives free places back to the models that were started with more."""
        while not self._roster.taking_room.locked() and (grown := refill(self._roster.picture())):
            self._enlarge(grown.key, grown.place)

    async def give_up(self, resident: Resident, place: int) -> None:
        """Takes one place of a model that has several; who had just got one asks for no other for a while."""
        now, regrow_seconds = self._roster.clock(), self._roster.settings.regrow_seconds
        if now - resident.grown_at < regrow_seconds:
            resident.stays_small_until = now + regrow_seconds
        berth = next(berth for berth in resident.berths if berth.place == place)
        resident.berths.remove(berth)
        await self._roster.berths.end(berth)

    def forget_retired(self, resident: Resident) -> None:
        """Frees the places of workers that were drained by hand; they are not filled again unless somebody asks."""
        berths = self._roster.berths
        if resident.is_leaving:
            return
        for berth in [berth for berth in resident.berths if not berths.is_kept(berth)]:
            logger.info("%s was retired: its place is free", berth.worker)
            resident.berths.remove(berth)
            resident.share = max(resident.share - 1, 1)
            berths.forget(berth)
            self._roster.changes.tell()

    def _grow(self) -> None:
        if grown := growth(self._roster.picture(), self._roster.settings):
            logger.info("%s has no room left and gets one more worker", self._roster.residents[grown.key].name)
            self._enlarge(grown.key, grown.place)
        self.refill()

    def _enlarge(self, key: str, place: int) -> None:
        resident = self._roster.residents[key]
        resident.full_since = None
        resident.grown_at = self._roster.clock()
        self._roster.occupy(resident, place)
