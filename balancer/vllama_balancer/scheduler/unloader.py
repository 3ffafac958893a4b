"""Unloads models: after their keep_alive, on request, or for another model; to sleep where their engine can."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from vllama_balancer.errors import NoWorker
from vllama_balancer.scheduler.decisions import EndSleeping, Sleep, unload_action

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.scheduler.autoscale import Autoscaler
    from vllama_balancer.scheduler.machine import Machine
    from vllama_balancer.scheduler.model import LoadedModel

logger = logging.getLogger(__name__)


class Unloader:
    """Keeps the expiry of each idle model, and unloads models."""

    def __init__(self, machine: Machine, autoscaler: Autoscaler, expires: Callable[[str, float | None], None]) -> None:
        """Calls `expires` when a model's expiry changes: seconds from now, None for never."""
        self._machine = machine
        self._autoscaler = autoscaler
        self._expires = expires
        self._timers: dict[LoadedModel, asyncio.TimerHandle] = {}

    def stop_expiry(self, model: LoadedModel) -> None:
        """Stops the clock of an idle model: it is used again."""
        if (timer := self._timers.pop(model, None)) is not None:
            timer.cancel()
        self._expires(model.key, _lifetime_seconds(model))

    def start_expiry(self, model: LoadedModel) -> None:
        """Starts the clock of a model if it is idle."""
        self.stop_expiry(model)
        seconds = _lifetime_seconds(model)
        if self._machine.holds(model) and model.is_idle and seconds is not None:
            self._timers[model] = asyncio.get_running_loop().call_later(seconds, self._expire, model)

    async def unload(self, model: LoadedModel, *, may_sleep: bool = False) -> None:
        """Ends a model's workers, or lets one of them sleep, and frees its slots."""
        machine = self._machine
        if model.is_leaving:
            await machine.unloaded(model)
            return
        self.stop_expiry(model)
        for replica in model.replicas:
            machine.replicas.drain(replica)
        try:
            if may_sleep and model.replicas:
                await self._put_to_sleep(model)
            await asyncio.gather(*(machine.replicas.end(replica) for replica in model.replicas))
        finally:
            del machine.models[model.key]
            self._expires(model.key, None)
            machine.changes.increment()
        self._autoscaler.restore_replicas()

    def _expire(self, model: LoadedModel) -> None:
        self._timers.pop(model, None)
        self._machine.task(self._unload_idle(model))

    async def _unload_idle(self, model: LoadedModel) -> None:
        # A request may have come since the timer ran out.
        if model.is_idle and self._machine.holds(model):
            logger.info("model %s unloading: idle", model.name)
            # A client that asks for a keep_alive of 0 wants the memory back.
            await self.unload(model, may_sleep=bool(_lifetime_seconds(model)))

    async def _put_to_sleep(self, model: LoadedModel) -> None:
        """Lets one of a model's workers sleep if that is worth it."""
        machine, replica = self._machine, model.replicas[0]
        while isinstance(step := unload_action(machine.snapshot(), model, machine.settings), EndSleeping):
            await machine.sleeping.end(step.key)
        if not isinstance(step, Sleep):
            return
        try:
            await machine.sleeping.put_to_sleep(model, replica)
        except NoWorker as error:
            logger.warning("model %s cannot sleep, so it ends: %s", model.name, error)
        else:
            model.replicas.remove(replica)


def _lifetime_seconds(model: LoadedModel) -> float | None:
    """Returns how long a model stays when it is idle; None: forever."""
    if model.unload_requested:
        return 0.0
    if model.pinned:
        return None
    return None if math.isinf(model.keep_alive_seconds) else model.keep_alive_seconds
