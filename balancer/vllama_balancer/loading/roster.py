"""Who is loaded where, and the tasks that change it: what arrivals, departures and growth share."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from vllama_balancer.errors import NoWorker
from vllama_balancer.loading.comebacks import Comebacks
from vllama_balancer.loading.picture import state_of
from vllama_balancer.loading.sleepers import Sleepers
from vllama_balancer.loading.state import MachineState
from vllama_balancer.workers.changes import Changes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from vllama_balancer.loading.berths import Berths
    from vllama_balancer.loading.progress_watch import WatchedPool
    from vllama_balancer.loading.resident import Resident
    from vllama_balancer.loading.settings import LoadingSettings
    from vllama_balancer.loading.sleepers import SleepControl

logger = logging.getLogger(__name__)


class Roster:
    """The models of a machine. Close it at the end."""

    def __init__(
        self,
        berths: Berths,
        pool: WatchedPool,
        sleep: SleepControl,
        settings: LoadingSettings,
        host_memory_bytes: Callable[[], int],
    ) -> None:
        self.berths = berths
        """The places."""
        self.pool = pool
        """The workers, as they report."""
        self.settings = settings
        """How models come and go."""
        self.residents: dict[str, Resident] = {}
        """Models that are awake, starting or leaving, by their keys."""
        self.changes = Changes()
        """Grows when a model comes, goes, or falls idle."""
        self.clock = asyncio.get_running_loop().time
        """The time in seconds."""
        self.sleepers = Sleepers(berths, pool, sleep, settings.sleep_seconds, self.changes.tell)
        """Models that are asleep."""
        self.comebacks = Comebacks()
        """Models that had to leave for others."""
        self.taking_room = asyncio.Lock()
        """Held by the one model that is looking for its first place."""
        self._host_memory_bytes = host_memory_bytes
        self._tasks: set[asyncio.Task[None]] = set()

    def picture(self) -> MachineState:
        """Pictures the machine for a decision."""
        return MachineState(
            now=self.clock(),
            free=self.berths.free,
            models=tuple(state_of(resident, self.pool) for resident in self.residents.values()),
            sleepers=self.sleepers.states(),
            host_memory_bytes=self._host_memory_bytes(),
        )

    def occupy(self, resident: Resident, place: int, *, gives_up_soon: bool = False) -> None:
        """Starts a worker of a model at a free place."""
        berth = self.berths.start(place, resident.model, gives_up_soon=gives_up_soon)
        logger.info("loading %s as %s", resident.name, berth.worker)
        if not resident.berths:
            resident.placed_at = self.clock()
        resident.berths.append(berth)

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs something until it is done or the roster closes."""
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
