"""Loads models onto the places of the machine, and takes them off again.

A place is one worker's share of the machine. A model that is asked for takes a free place, else one of a model that
has several, else that of the idle model that was used longest ago; when everybody is busy it waits for its turn.
Pinned models keep at least one place for ever. A model with requests is never unloaded. A model that stays full
grows onto free places and gives them up when another needs one; as it never takes a place that is in use, two
models cannot push each other out in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import TYPE_CHECKING

from vllama_balancer.errors import DeadlineExceeded, NoWorker, QueueFull
from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.loading.growth import Growth
from vllama_balancer.loading.progress_watch import until_ready
from vllama_balancer.loading.resident import Resident
from vllama_balancer.workers.changes import Changes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from typing import Any

    from vllama_balancer.fleet.assignment import HostedModel, Slot, WorkerSpec
    from vllama_balancer.loading.progress_watch import WatchedPool
    from vllama_balancer.loading.settings import LoadingSettings, Workshop

logger = logging.getLogger(__name__)


class Residents:
    """The loaded models. Close it before the fleet."""

    def __init__(
        self,
        workshop: Workshop,
        pool: WatchedPool,
        places: Sequence[Slot],
        make_spec: Callable[[Slot, HostedModel], WorkerSpec],
        settings: LoadingSettings,
        expires: Callable[[str, float | None], None],
    ) -> None:
        """Tells `expires` when a model will leave: seconds from now, None for never."""
        self._workshop = workshop
        self._pool = pool
        self._free = list(places)
        self._places = len(places)
        self._make_spec = make_spec
        self._settings = settings
        self._expires = expires
        self._residents: dict[str, Resident] = {}
        self._wished: dict[str, float] = {}
        self._waiting = 0
        self._taking_room = asyncio.Lock()
        self._changes = Changes()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clock = asyncio.get_running_loop().time
        self._growth = Growth(pool, settings.grow_after_seconds, self._clock)
        self._task(self._grow())

    # -- what it is asked ------------------------------------------------------------------

    def preload(self, models: Sequence[tuple[str, HostedModel]], *, pinned: bool) -> None:
        """Loads models onto all places, in turn. Call it once, before anything else."""
        for key, model in models:
            self._residents[key] = Resident(key, model, is_pinned=pinned, share=0)
        order = list(self._residents.values())
        for position in range(self._places):
            resident = order[position % len(order)]
            resident.share += 1
            self._occupy(resident, self._free.pop(0))
        for resident in order:
            self._begin(resident, until_ready(self._pool, resident, self._settings.stall_seconds))

    @contextlib.asynccontextmanager
    async def used(self, key: str, model: HostedModel, deadline: float | None = None) -> AsyncIterator[None]:
        """Keeps a model loaded inside the block, loading it first if need be.

        Raises NoWorker with the cause when it cannot be loaded, QueueFull when too many wait already, and
        DeadlineExceeded at the deadline (on the event loop's clock).
        """
        resident = await self._present(key, model)
        resident.users += 1
        self._stay(resident)
        try:
            if not resident.is_loaded:
                await self._wait(resident, deadline)
            yield
        finally:
            resident.users -= 1
            resident.last_used = self._clock()
            self._maybe_expire(resident)
            self._changes.tell()

    def keep(self, key: str, seconds: float) -> None:
        """Replaces how long a model stays after its last request."""
        resident = self._residents.get(key)
        if resident is None:
            self._wished[key] = seconds
        elif not resident.is_pinned:
            resident.keep_alive_seconds = _forever_if_negative(seconds)
            self._maybe_expire(resident)

    async def unload(self, key: str) -> None:
        """Lets a model go: now when it is idle, else as soon as it is."""
        resident = self._residents.get(key)
        if resident is None or resident.is_pinned:
            return
        resident.is_going = True
        if resident.is_idle:
            await self._leave(resident)

    def is_pinned(self, key: str) -> bool:
        """Tells whether a model never leaves."""
        resident = self._residents.get(key)
        return resident is not None and resident.is_pinned

    async def close(self) -> None:
        """Ends all loading and unloading; the workers are the fleet's to end."""
        for resident in self._residents.values():
            self._stay(resident)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- coming ----------------------------------------------------------------------------

    async def _present(self, key: str, model: HostedModel) -> Resident:
        """Finds a model, or begins to load it; one that is leaving is waited for first."""
        while (resident := self._residents.get(key)) is not None:
            if resident.is_loaded and not resident.is_leaving and not resident.is_pinned and self._is_dead(resident):
                await self._leave(resident)
            if not resident.is_leaving:
                return resident
            await resident.left.wait()
        wished = self._wished.pop(key, self._settings.keep_alive_seconds)
        resident = Resident(key, model, keep_alive_seconds=_forever_if_negative(wished))
        self._residents[key] = resident
        self._begin(resident, self._load(resident))
        return resident

    async def _wait(self, resident: Resident, deadline: float | None) -> None:
        if self._waiting >= self._settings.most_waiting:
            raise QueueFull("too many requests wait for models to load", retry_after_seconds=5.0)
        assert resident.loading is not None
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.shield(resident.loading)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while the model was loaded") from None
        finally:
            self._waiting -= 1

    async def _load(self, resident: Resident) -> None:
        try:
            async with self._taking_room:
                slot = await self._room()
                logger.info("loading %s as worker-%d", resident.key, slot.index)
                # Somebody waits: the cause now is worth more than a second try.
                self._occupy(resident, slot, gives_up_soon=True)
            await until_ready(self._pool, resident, self._settings.stall_seconds)
        except NoWorker as error:
            logger.warning("%s cannot be loaded: %s", resident.key, error)
            await self._leave(resident)
            raise

    def _begin(self, resident: Resident, load: Coroutine[Any, Any, None]) -> None:
        resident.loading = self._task(load)
        resident.loading.add_done_callback(lambda _: self._settled(resident))

    def _settled(self, resident: Resident) -> None:
        """Looks at a model whose load has ended: whoever asked for it may be gone."""
        if not resident.is_leaving:
            self._maybe_expire(resident)
        self._changes.tell()

    def _occupy(self, resident: Resident, slot: Slot, *, gives_up_soon: bool = False) -> None:
        resident.slots.append(slot)
        self._workshop.add(self._make_spec(slot, resident.model), gives_up_soon=gives_up_soon)

    async def _room(self) -> Slot:
        """Finds a place, making one or waiting for one. Raises NoWorker when there will never be one."""
        while True:
            version = self._changes.version
            holders = [other for other in self._residents.values() if other.slots]
            too_many = 0 < self._settings.most_loaded <= len(holders)
            if self._free and not too_many:
                return self._free.pop(0)
            if not too_many and (generous := self._most_generous()):
                await self._give_up(generous)
            elif victim := self._longest_idle(lambda resident: not resident.is_pinned):
                await self._leave(victim)
            elif all(resident.is_pinned for resident in holders):
                raise NoWorker(
                    "every worker is kept for the models that the server was started with; start it with more "
                    "--workers, or name no models, so that they come and go"
                )
            else:
                await self._changes.after(version)

    def _most_generous(self) -> Resident | None:
        """A model that can spare a place: its streams there finish first, and new ones go to its other places."""
        rich = [one for one in self._residents.values() if len(one.slots) > 1 and one.is_loaded and not one.is_leaving]
        return min(rich, key=lambda resident: (resident.users > 0, resident.last_used), default=None)

    async def _grow(self) -> None:
        while True:
            await asyncio.sleep(self._settings.look_seconds)
            for resident in self._residents.values():
                is_due = self._growth.is_due(resident)
                if is_due and self._free and not self._taking_room.locked():
                    logger.info("%s has no room left and gets one more worker", resident.key)
                    resident.full_since = None
                    self._occupy(resident, self._free.pop(0))

    def _longest_idle(self, wanted: Callable[[Resident], bool]) -> Resident | None:
        idle = [resident for resident in self._residents.values() if resident.is_idle and wanted(resident)]
        return min(idle, key=lambda resident: resident.last_used, default=None)

    def _is_dead(self, resident: Resident) -> bool:
        """Tells whether all its workers have been given up since it was loaded."""
        workers = [self._pool.find(f"worker-{slot.index}") for slot in resident.slots]
        return all(worker is not None and worker.process.state is ProcessState.FAILED for worker in workers)

    # -- going -----------------------------------------------------------------------------

    def _stay(self, resident: Resident) -> None:
        """Stops the clock of an idle model: it is used again."""
        if resident.expiry is not None:
            resident.expiry.cancel()
            resident.expiry = None
        self._expires(resident.key, self._lifetime(resident))

    def _maybe_expire(self, resident: Resident) -> None:
        """Starts the clock of a model that has just become idle, or ends it at once."""
        self._stay(resident)
        seconds = self._lifetime(resident)
        if resident.is_idle and not resident.is_pinned and seconds is not None:
            resident.expiry = asyncio.get_running_loop().call_later(seconds, self._expire, resident)

    def _lifetime(self, resident: Resident) -> float | None:
        if resident.is_going:
            return 0.0
        return None if resident.is_pinned or math.isinf(resident.keep_alive_seconds) else resident.keep_alive_seconds

    def _expire(self, resident: Resident) -> None:
        if resident.is_idle:
            logger.info("unloading %s, which is idle", resident.key)
            self._task(self._leave(resident))

    async def _leave(self, resident: Resident) -> None:
        """Ends a model's workers and frees its places."""
        if resident.is_leaving:
            await resident.left.wait()
            return
        resident.is_leaving = True
        self._stay(resident)
        try:
            await asyncio.gather(*(self._workshop.retire(f"worker-{slot.index}") for slot in resident.slots))
        finally:
            self._free += resident.slots
            resident.slots = []
            del self._residents[resident.key]
            self._expires(resident.key, None)
            resident.left.set()
            self._changes.tell()
        self._refill()

    async def _give_up(self, resident: Resident) -> None:
        """Takes one place of a model that has several."""
        slot = resident.slots.pop()
        await self._workshop.retire(f"worker-{slot.index}")
        self._free.append(slot)

    def _refill(self) -> None:
        """Gives free places back to the models that were started with more."""
        for resident in self._residents.values():
            while (
                self._free
                and not self._taking_room.locked()
                and len(resident.slots) < resident.share
                and (resident.slots and not resident.is_leaving)
            ):
                self._occupy(resident, self._free.pop(0))

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # A failed load has been logged, and is raised to whoever waits for it; anything else is a fault of ours.
        if error is not None and not isinstance(error, NoWorker):
            logger.error("a task of the model loading ended with an error", exc_info=error)


def _forever_if_negative(seconds: float) -> float:
    return math.inf if seconds < 0 else seconds
