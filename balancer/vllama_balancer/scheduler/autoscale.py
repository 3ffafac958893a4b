"""Changes the number of a model's replicas: up while it is saturated, down when another model needs a slot."""

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
    """Scales models up and down. `run` it in a task."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def run(self) -> None:
        """Looks at all models at regular intervals until cancelled. An error is logged, and the next look comes."""
        while True:
            await asyncio.sleep(self._machine.settings.poll_seconds)
            try:
                self._look()
            except Exception:
                logger.exception("unhandled exception in the autoscaler")

    def restore_replicas(self) -> None:
        """Gives free slots to models that were started with more replicas."""
        while not self._machine.slot_search.locked() and (decision := restore_replicas(self._machine.snapshot())):
            self._add_replica(decision.key, decision.slot)

    async def scale_down(self, model: LoadedModel, slot: int) -> None:
        """Ends one replica of a model that has several."""
        machine, now = self._machine, self._machine.clock()
        if now - model.scaled_up_at < machine.settings.regrow_seconds:
            model.no_scale_up_until = now + machine.settings.regrow_seconds
        replica = next(replica for replica in model.replicas if replica.slot == slot)
        model.replicas.remove(replica)
        machine.note_ready(model)
        await machine.replicas.end(replica)

    def drop_retired(self, model: LoadedModel) -> None:
        """Frees the slots of workers that an operator has retired; only a request fills them again."""
        machine = self._machine
        if model.is_leaving:
            return
        for replica in [replica for replica in model.replicas if not machine.replicas.is_kept(replica)]:
            logger.info("worker %s retired: slot %d is free", replica.worker, replica.slot)
            model.replicas.remove(replica)
            model.share = max(model.share - 1, 1)
            machine.replicas.retired(replica)
            machine.note_ready(model)
            machine.changes.increment()

    def _look(self) -> None:
        machine = self._machine
        for model in machine.models.values():
            self.drop_retired(model)
            machine.note_ready(model)
            note_saturation(model, machine.pool, machine.clock())
        if not machine.slot_search.locked():
            self._scale_up()

    def _scale_up(self) -> None:
        if decision := scale_up(self._machine.snapshot(), self._machine.settings):
            logger.info("model %s saturated: one more worker", self._machine.models[decision.key].name)
            self._add_replica(decision.key, decision.slot)
        self.restore_replicas()

    def _add_replica(self, key: str, slot: int) -> None:
        model = self._machine.models[key]
        self._machine.occupy(model, slot)
        model.saturated_since = None
        model.scaled_up_at = self._machine.clock()


def note_saturation(model: LoadedModel, pool: WatchedPool, now: float) -> None:
    """Records since when requests have waited while all of a model's workers serve; call it regularly."""
    if not model.is_loaded or not _is_saturated(model, pool):
        model.saturated_since = None
    elif model.saturated_since is None:
        model.saturated_since = now


def _is_saturated(model: LoadedModel, pool: WatchedPool) -> bool:
    """Returns whether all its workers serve and none has a free stream; one that starts is room to come.

    Without workers, its next request loads it.
    """
    workers = [pool.find(name) for name in model.workers]
    return bool(workers) and all(
        worker is not None and not worker.unavailable and worker.candidate() is None for worker in workers
    )
