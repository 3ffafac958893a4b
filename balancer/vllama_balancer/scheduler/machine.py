"""Who is loaded where, and the tasks that change it: what arrivals, departures and growth share."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from vllama_balancer.errors import NoWorker
from vllama_balancer.scheduler.model import EvictionHistory, state_of
from vllama_balancer.scheduler.sleeping import SleepingModels
from vllama_balancer.scheduler.state import MachineState
from vllama_balancer.workers.changes import Changes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from vllama_balancer.scheduler.model import LoadedModel
    from vllama_balancer.scheduler.replicas import Replicas
    from vllama_balancer.scheduler.settings import SchedulerSettings, WatchedPool
    from vllama_balancer.scheduler.sleeping import SleepControl

logger = logging.getLogger(__name__)


class Machine:
    """The models of a machine. Close it at the end."""

    def __init__(
        self,
        replicas: Replicas,
        pool: WatchedPool,
        sleep: SleepControl,
        settings: SchedulerSettings,
        host_memory_bytes: Callable[[], int],
    ) -> None:
        self.replicas = replicas
        """The places."""
        self.pool = pool
        """The workers, as they report."""
        self.settings = settings
        """How models come and go."""
        self.residents: dict[str, LoadedModel] = {}
        """Models that are awake, starting or leaving, by their keys."""
        self.changes = Changes()
        """Grows when a model comes, goes, or falls idle."""
        self.clock = asyncio.get_running_loop().time
        """The time in seconds."""
        self.sleepers = SleepingModels(replicas, pool, sleep, settings.sleep_seconds, self.changes.tell)
        """Models that are asleep."""
        self.eviction_history = EvictionHistory()
        """Models that had to leave for others."""
        self.slot_search = asyncio.Lock()
        """Held by the one model that is looking for its first place."""
        self._host_memory_bytes = host_memory_bytes
        self._tasks: set[asyncio.Task[None]] = set()

    def snapshot(self) -> MachineState:
        """Pictures the machine for a decision."""
        return MachineState(
            now=self.clock(),
            free=self.replicas.free,
            models=tuple(state_of(resident, self.pool) for resident in self.residents.values()),
            sleepers=self.sleepers.states(),
            host_memory_bytes=self._host_memory_bytes(),
        )

    def occupy(self, resident: LoadedModel, place: int, *, fail_fast: bool = False) -> None:
        """Starts a worker of a model at a free place."""
        replica = self.replicas.start(place, resident.model, fail_fast=fail_fast)
        logger.info("loading %s as %s", resident.name, replica.worker)
        if not resident.replicas:
            resident.placed_at = self.clock()
        resident.replicas.append(replica)

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs something until it is done or the machine closes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Ends every task; the workers are the fleet's to end."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.sleepers.close()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # A failed load has been logged, and is raised to whoever waits for it; anything else is a fault of ours.
        if error is not None and not isinstance(error, NoWorker):
            logger.error("a task of the model loading ended with an error", exc_info=error)
