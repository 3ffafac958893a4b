"""The models of a machine, awake and asleep, and the tasks that load and unload them.

This is the state that loader, unloader, autoscaler and scheduler share.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from vllama_balancer.change_counter import ChangeCounter
from vllama_balancer.errors import NoWorker
from vllama_balancer.scheduler.decisions import MachineState
from vllama_balancer.scheduler.model import EvictionHistory, LoadFailures
from vllama_balancer.scheduler.sleeping import SleepingModels
from vllama_balancer.scheduler.state import SlotState

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from vllama_balancer.scheduler.model import LoadedModel
    from vllama_balancer.scheduler.replicas import Replicas
    from vllama_balancer.scheduler.settings import SchedulerSettings, WatchedPool
    from vllama_balancer.scheduler.sleeping import SleepControl

logger = logging.getLogger(__name__)


class Machine:
    """Holds the models by their keys. Close it at the end."""

    def __init__(
        self,
        replicas: Replicas,
        pool: WatchedPool,
        sleep: SleepControl,
        settings: SchedulerSettings,
        host_memory_bytes: Callable[[], int],
    ) -> None:
        self.replicas = replicas
        """The slots and their workers."""
        self.pool = pool
        """The workers, as they report."""
        self.settings = settings
        """When models are loaded and unloaded."""
        self.models: dict[str, LoadedModel] = {}
        """Models that are awake, starting or leaving."""
        self.changes = ChangeCounter()
        """Grows when a model comes, goes, or becomes idle."""
        self.clock = asyncio.get_running_loop().time
        """The time in seconds."""
        self.sleeping = SleepingModels(replicas, pool, sleep, settings.sleep_seconds, self.changes.increment)
        """Models that are asleep."""
        self.eviction_history = EvictionHistory()
        """Models that were evicted for others."""
        self.load_failures = LoadFailures(settings.failure_memory_seconds)
        """Models whose load has just failed."""
        self.slot_search = asyncio.Lock()
        """Held by the one model that is looking for its first slot."""
        self._host_memory_bytes = host_memory_bytes
        self._tasks: set[asyncio.Task[None]] = set()

    def snapshot(self) -> MachineState:
        """Returns the input of a decision."""
        for model in self.models.values():
            self._describe(model)
        return MachineState(
            now=self.clock(),
            free=self.replicas.free,
            models=tuple(self.models.values()),
            sleeping=self.sleeping.models(),
            host_memory_bytes=self._spare_host_memory(),
        )

    def occupy(self, model: LoadedModel, slot: int, *, fail_fast: bool = False) -> None:
        """Starts a worker of a model at a free slot."""
        replica = self.replicas.start(slot, model.hosted, fail_fast=fail_fast)
        logger.info("model %s loading: worker %s", model.name, replica.worker)
        if not model.replicas:
            model.placed_at = self.clock()
        model.replicas.append(replica)
        self.note_ready(model)

    def note_ready(self, model: LoadedModel) -> None:
        """Makes those replicas of a model READY that serve, or all of them if none does.

        A model that has been loaded stays so. While none of its replicas serves, requests wait for them in the
        dispatcher.
        """
        if model.load_pending:
            return
        loading = [replica for replica in model.replicas if replica.state is SlotState.LOADING]
        serving = [replica for replica in loading if self._serves(replica.worker)]
        has_ready = any(replica.state is SlotState.READY for replica in model.replicas)
        for replica in serving if serving or has_ready else loading:
            self.replicas.ready(replica)

    def holds(self, model: LoadedModel) -> bool:
        """Returns whether a model has not been unloaded."""
        return self.models.get(model.key) is model

    async def unloaded(self, model: LoadedModel) -> None:
        """Waits until a model that is leaving has left."""
        while self.holds(model):
            await self.changes.after(self.changes.version)

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs something until it is done or the machine closes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Ends every task; the fleet ends the workers."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.sleeping.close()

    def _spare_host_memory(self) -> int:
        """Returns what sleeping models may take now; nothing while that cannot be read."""
        try:
            return self._host_memory_bytes()
        except OSError as error:
            logger.warning("memory of the host not read, so no model falls asleep: %s", error)
            return 0

    def _describe(self, model: LoadedModel) -> None:
        """Copies from a model's first worker what decisions need."""
        worker = self.pool.find(model.workers[0]) if model.replicas else None
        description = worker.description if worker is not None else None
        described_bytes = description.model_info.size_bytes if description is not None else 0
        model.can_sleep = description is not None and description.can_sleep
        model.size_bytes = described_bytes or model.hosted.size_bytes

    def _serves(self, worker_name: str) -> bool:
        worker = self.pool.find(worker_name)
        return worker is not None and not worker.unavailable

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # A failed load has been logged, and is raised to the requests that wait for it; anything else is a bug.
        if error is not None and not isinstance(error, NoWorker):
            logger.error("task of the scheduler failed", exc_info=error)
