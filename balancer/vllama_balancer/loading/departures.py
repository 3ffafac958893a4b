"""Lets models go: by the clock when they are idle, at once when they are told to, to sleep where they can."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from vllama_balancer.errors import NoWorker
from vllama_balancer.loading.decisions import EndSleeper, Sleep, farewell
from vllama_balancer.loading.picture import state_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.loading.growth import Growth
    from vllama_balancer.loading.resident import Resident
    from vllama_balancer.loading.roster import Roster

logger = logging.getLogger(__name__)


class Departures:
    """Knows when each model leaves, and sees it off."""

    def __init__(self, roster: Roster, growth: Growth, expires: Callable[[str, float | None], None]) -> None:
        """Tells `expires` when a model will leave: seconds from now, None for never."""
        self._roster = roster
        self._growth = growth
        self._expires = expires

    def stay(self, resident: Resident) -> None:
        """Stops the clock of an idle model: it is used again."""
        if resident.expiry is not None:
            resident.expiry.cancel()
            resident.expiry = None
        self._expires(resident.key, _lifetime_seconds(resident))

    def idle(self, resident: Resident) -> None:
        """Starts the clock of a model if nobody uses it now, or ends it at once."""
        self.stay(resident)
        seconds = _lifetime_seconds(resident)
        if resident.is_idle and not resident.is_pinned and seconds is not None:
            resident.expiry = asyncio.get_running_loop().call_later(seconds, self._expire, resident)

    async def leave(self, resident: Resident, *, may_sleep: bool = False) -> None:
        """Ends a model's workers, or lets one of them sleep, and frees its places."""
        if resident.is_leaving:
            await resident.left.wait()
            return
        resident.is_leaving = True
        self.stay(resident)
        try:
            if may_sleep and resident.berths:
                await self._put_to_sleep(resident)
            await asyncio.gather(*(self._roster.berths.end(berth) for berth in resident.berths))
        finally:
            resident.berths = []
            del self._roster.residents[resident.key]
            self._expires(resident.key, None)
            resident.left.set()
            self._roster.changes.tell()
        self._growth.refill()

    def _expire(self, resident: Resident) -> None:
        if resident.is_idle:
            logger.info("unloading %s, which is idle", resident.name)
            # Who says that it is needed no more, by a keep_alive of 0, wants the memory back.
            self._roster.task(self.leave(resident, may_sleep=bool(_lifetime_seconds(resident))))

    async def _put_to_sleep(self, resident: Resident) -> None:
        """Lets one of a model's workers sleep if that is worth it; the others are ended like any."""
        roster, berth = self._roster, resident.berths[0]
        state = state_of(resident, roster.pool)
        while isinstance(step := farewell(roster.picture(), state, roster.settings), EndSleeper):
            await roster.sleepers.end(step.key)
        if not isinstance(step, Sleep):
            return
        try:
            await roster.sleepers.put_to_sleep(resident.key, resident.name, berth, state.size_bytes)
        except NoWorker as error:
            logger.warning("%s does not fall asleep and is ended: %s", resident.name, error)
        else:
            resident.berths.remove(berth)


def _lifetime_seconds(resident: Resident) -> float | None:
    """Tells how long a model stays when it is idle; None: for ever."""
    if resident.is_going:
        return 0.0
    return None if resident.is_pinned or math.isinf(resident.keep_alive_seconds) else resident.keep_alive_seconds
