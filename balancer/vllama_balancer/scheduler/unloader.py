"""Lets models go: by the clock when they are idle, at once when they are told to, to sleep where they can."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from vllama_balancer.errors import NoWorker
from vllama_balancer.scheduler.decisions import EndSleeper, Sleep, unload_action
from vllama_balancer.scheduler.model import state_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.scheduler.autoscale import Autoscaler
    from vllama_balancer.scheduler.machine import Machine
    from vllama_balancer.scheduler.model import LoadedModel

logger = logging.getLogger(__name__)


class Unloader:
    """Knows when each model leaves, and sees it off."""

    def __init__(self, machine: Machine, growth: Autoscaler, expires: Callable[[str, float | None], None]) -> None:
        """Tells `expires` when a model will leave: seconds from now, None for never."""
        self._machine = machine
        self._autoscaler = growth
        self._expires = expires

    def stay(self, resident: LoadedModel) -> None:
        """Stops the clock of an idle model: it is used again."""
        if resident.expiry is not None:
            resident.expiry.cancel()
            resident.expiry = None
        self._expires(resident.key, _lifetime_seconds(resident))

    def idle(self, resident: LoadedModel) -> None:
        """Starts the clock of a model if nobody uses it now, or ends it at once."""
        self.stay(resident)
        seconds = _lifetime_seconds(resident)
        if resident.is_idle and not resident.is_pinned and seconds is not None:
            resident.expiry = asyncio.get_running_loop().call_later(seconds, self._expire, resident)

    async def leave(self, resident: LoadedModel, *, may_sleep: bool = False) -> None:
        """Ends a model's workers, or lets one of them sleep, and frees its places."""
        if resident.is_leaving:
            await resident.left.wait()
            return
        resident.is_leaving = True
        self.stay(resident)
        try:
            if may_sleep and resident.replicas:
                await self._put_to_sleep(resident)
            await asyncio.gather(*(self._machine.replicas.end(replica) for replica in resident.replicas))
        finally:
            resident.replicas = []
            del self._machine.residents[resident.key]
            self._expires(resident.key, None)
            resident.left.set()
            self._machine.changes.tell()
        self._autoscaler.restore_replicas()

    def _expire(self, resident: LoadedModel) -> None:
        if resident.is_idle:
            logger.info("unloading %s, which is idle", resident.name)
            # Who says that it is needed no more, by a keep_alive of 0, wants the memory back.
            self._machine.task(self.leave(resident, may_sleep=bool(_lifetime_seconds(resident))))

    async def _put_to_sleep(self, resident: LoadedModel) -> None:
        """Lets one of a model's workers sleep if that is worth it; the others are ended like any."""
        machine, replica = self._machine, resident.replicas[0]
        state = state_of(resident, machine.pool)
        while isinstance(step := unload_action(machine.snapshot(), state, machine.settings), EndSleeper):
            await machine.sleepers.end(step.key)
        if not isinstance(step, Sleep):
            return
        try:
            await machine.sleepers.put_to_sleep(resident.key, resident.name, replica, state.size_bytes)
        except NoWorker as error:
            logger.warning("%s does not fall asleep and is ended: %s", resident.name, error)
        else:
            resident.replicas.remove(replica)


def _lifetime_seconds(resident: LoadedModel) -> float | None:
    """Tells how long a model stays when it is idle; None: for ever."""
    if resident.unload_requested:
        return 0.0
    return None if resident.is_pinned or math.isinf(resident.keep_alive_seconds) else resident.keep_alive_seconds
