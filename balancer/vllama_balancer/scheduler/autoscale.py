"""Gives models more workers while requests wait for room on all that they have, and takes them back.

Notes since when a model has had no room: requests wait although all its workers serve.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from vllama_balancer.scheduler.decisions import restore_replicas, scale_up

if TYPE_CHECKING:
    from vllama_balancer.scheduler.machine import Machine
    from vllama_balancer.scheduler.model import LoadedModel
    from vllama_balancer.scheduler.settings import WatchedPool


logger = logging.getLogger(__name__)


class Autoscaler:
    """Changes how many places each model has. `run` it in a task."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def run(self) -> None:
        """Looks again and again until cancelled."""
        machine = self._machine
        while True:
            await asyncio.sleep(machine.settings.poll_seconds)
            for resident in machine.residents.values():
                self.forget_retired(resident)
                note_saturation(resident, machine.pool, machine.clock())
            if not machine.slot_search.locked():
                self._grow()

    def restore_replicas(self) -> None:
        """Gives free places back to the models that were started with more."""
        while not self._machine.slot_search.locked() and (grown := restore_replicas(self._machine.snapshot())):
            self._enlarge(grown.key, grown.place)

    async def give_up(self, resident: LoadedModel, place: int) -> None:
        """Takes one place of a model that has several; who had just got one asks for no other for a while."""
        now, regrow_seconds = self._machine.clock(), self._machine.settings.regrow_seconds
        if now - resident.scaled_up_at < regrow_seconds:
            resident.no_scale_up_until = now + regrow_seconds
        replica = next(replica for replica in resident.replicas if replica.place == place)
        resident.replicas.remove(replica)
        await self._machine.replicas.end(replica)

    def forget_retired(self, resident: LoadedModel) -> None:
        """Frees the places of workers that were drained by hand; they are not filled again unless somebody asks."""
        replicas = self._machine.replicas
        if resident.is_leaving:
            return
        for replica in [replica for replica in resident.replicas if not replicas.is_kept(replica)]:
            logger.info("%s was retired: its place is free", replica.worker)
            resident.replicas.remove(replica)
            resident.share = max(resident.share - 1, 1)
            replicas.forget(replica)
            self._machine.changes.tell()

    def _grow(self) -> None:
        if grown := scale_up(self._machine.snapshot(), self._machine.settings):
            logger.info("%s has no room left and gets one more worker", self._machine.residents[grown.key].name)
            self._enlarge(grown.key, grown.place)
        self.restore_replicas()

    def _enlarge(self, key: str, place: int) -> None:
        resident = self._machine.residents[key]
        resident.saturated_since = None
        resident.scaled_up_at = self._machine.clock()
        self._machine.occupy(resident, place)


def note_saturation(resident: LoadedModel, pool: WatchedPool, now: float) -> None:
    """Looks at a model's workers; call it regularly."""
    if not resident.is_loaded or resident.is_leaving or not _is_full(resident, pool):
        resident.saturated_since = None
    elif resident.saturated_since is None:
        resident.saturated_since = now


def _is_full(resident: LoadedModel, pool: WatchedPool) -> bool:
    """Tells whether all its workers serve and none has room; one that starts is room to come."""
    workers = [pool.find(name) for name in resident.workers]
    return all(worker is not None and not worker.unavailable and worker.candidate() is None for worker in workers)
