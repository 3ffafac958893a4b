"""Loads models onto the places of the machine, and takes them off again.

A place is one worker's share of the machine. What is to be done is decided in `decisions.py`, from a picture of the
machine; this does it, one thing after the other, and keeps requests waiting meanwhile. Pinned models keep at least
one place for ever, and a model with requests is never unloaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from typing import TYPE_CHECKING

from vllama_balancer.errors import DeadlineExceeded, NoWorker, QueueFull
from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.loading.decisions import (
    EndSleeper,
    Evict,
    Refuse,
    Shrink,
    Sleep,
    Take,
    Wait,
    Wake,
    Yield,
    farewell,
    growth,
    next_step,
    refill,
    relief,
)
from vllama_balancer.loading.fullness import note_fullness
from vllama_balancer.loading.gpu_room import TooLarge
from vllama_balancer.loading.picture import state_of, status_of
from vllama_balancer.loading.progress_watch import until_ready
from vllama_balancer.loading.resident import Resident
from vllama_balancer.loading.sleepers import Sleepers
from vllama_balancer.loading.state import MachineState
from vllama_balancer.workers.changes import Changes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from typing import Any

    from vllama_balancer.fleet.assignment import HostedModel
    from vllama_balancer.loading.berths import Berths
    from vllama_balancer.loading.gpu_room import GpuRoom
    from vllama_balancer.loading.progress_watch import WatchedPool
    from vllama_balancer.loading.settings import LoadingSettings
    from vllama_balancer.loading.sleepers import SleepControl
    from vllama_protos.v1 import fleet_pb2

logger = logging.getLogger(__name__)

DOES_NOT_FIT = "MODEL_DOES_NOT_FIT"
"""Reason of a refusal for want of memory."""


class Residents:
    """The loaded models. Close it before the fleet."""

    def __init__(
        self,
        berths: Berths,
        pool: WatchedPool,
        sleep: SleepControl,
        settings: LoadingSettings,
        expires: Callable[[str, float | None], None],
        gpus: GpuRoom,
        host_memory_bytes: Callable[[], int],
    ) -> None:
        """Tells `expires` when a model will leave: seconds from now, None for never."""
        self._berths = berths
        self._pool = pool
        self._settings = settings
        self._expires = expires
        self._gpus = gpus
        self._host_memory_bytes = host_memory_bytes
        self._residents: dict[str, Resident] = {}
        self._wished: dict[str, float] = {}
        self._waiting = 0
        self._has_served = False
        self._taking_room = asyncio.Lock()
        self._changes = Changes()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clock = asyncio.get_running_loop().time
        self._sleepers = Sleepers(berths, pool, sleep, settings.sleep_seconds, self._changes.tell)
        self._task(self._grow())

    # -- what it is asked ------------------------------------------------------------------

    def preload(self, models: Sequence[tuple[str, HostedModel]], *, pinned: bool) -> None:
        """Loads models onto all places, in turn. Call it once, before anything else."""
        for key, model in models:
            self._residents[key] = Resident(key, model, is_pinned=pinned, share=0)
        order = list(self._residents.values())
        for position in range(self._berths.count):
            resident = order[position % len(order)]
            resident.share += 1
            self._occupy(resident, self._berths.free[0])
        for resident in order:
            self._begin(resident, until_ready(self._pool, resident, self._settings.stall_seconds))

    @contextlib.asynccontextmanager
    async def used(self, key: str, model: HostedModel, deadline: float | None = None) -> AsyncIterator[None]:
        """Keeps a model loaded inside the block, loading it first if need be.

        Raises NoWorker with the cause when it cannot be loaded, QueueFull when too many wait already, and
        DeadlineExceeded at the deadline (on the event loop's clock).
        """
        resident = self._present(key)
        if resident is None:
            async with self._patience(deadline):
                resident = await self._presented(key, model)
        resident.users += 1
        self._stay(resident)
        try:
            self._forget_retired(resident)
            if resident.is_loaded and not resident.berths:
                self._begin(resident, self._load(resident))
            if not resident.is_loaded:
                async with self._patience(deadline):
                    assert resident.loading is not None
                    await asyncio.shield(resident.loading)
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
        """Lets a model go: now when it is idle or asleep, else as soon as it is idle."""
        while (resident := self._residents.get(key)) is not None and resident.is_leaving:
            await resident.left.wait()
        await self._sleepers.end(key)
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

    @property
    def loads_on_demand(self) -> bool:
        """Whether a request for a model that is not loaded waits while it is being loaded, once one has served."""
        return self._has_served and not any(resident.is_pinned for resident in self._residents.values())

    def statuses(self) -> list[fleet_pb2.ModelStatus]:
        """Lists the models that are loaded, being loaded, or asleep."""
        awake = [status_of(resident) for resident in self._residents.values()]
        return awake + self._sleepers.statuses()

    async def close(self) -> None:
        """Ends all loading and unloading; the workers are the fleet's to end."""
        for resident in self._residents.values():
            self._stay(resident)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sleepers.close()

    # -- coming ----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _patience(self, deadline: float | None) -> AsyncIterator[None]:
        """Bounds a wait: in time by the deadline, in number by the queue's length."""
        if self._waiting >= self._settings.most_waiting:
            raise QueueFull("too many requests wait for models to load", retry_after_seconds=5.0)
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while the model was loaded") from None
        finally:
            self._waiting -= 1

    def _present(self, key: str) -> Resident | None:
        """Finds a model that takes requests now, or will once it has loaded."""
        resident = self._residents.get(key)
        if resident is None or resident.is_leaving or resident.is_yielding or self._is_dead(resident):
            return None
        return resident

    async def _presented(self, key: str, model: HostedModel) -> Resident:
        """Begins to load a model; one that is leaving or makes way for another is waited for first."""
        while (resident := self._residents.get(key)) is not None:
            if not resident.is_leaving and self._is_dead(resident):
                await self._leave(resident)
            elif resident.is_leaving or resident.is_yielding:
                await self._changes.after(self._changes.version)
            else:
                return resident
        wished = self._wished.pop(key, self._settings.keep_alive_seconds)
        resident = Resident(key, model, keep_alive_seconds=_forever_if_negative(wished))
        self._residents[key] = resident
        self._begin(resident, self._load(resident))
        return resident

    async def _load(self, resident: Resident) -> None:
        try:
            async with self._taking_room:
                await self._settle(resident)
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
        resident.ready_at = self._clock()
        loading = resident.loading
        self._has_served |= loading is not None and not loading.cancelled() and loading.exception() is None
        if not resident.is_leaving:
            self._maybe_expire(resident)
        self._changes.tell()

    async def _settle(self, resident: Resident) -> None:
        """Brings a model to its first place, making one or waiting for one. Raises NoWorker when there is none ever."""
        while not resident.berths:
            version = self._changes.version
            match next_step(self._picture(), resident.key, self._settings):
                case Take(place):
                    await self._sleepers.end(resident.key)
                    await self._make_memory(resident, place)
                    # Somebody waits: the cause now is worth more than a second try.
                    self._occupy(resident, place, gives_up_soon=True)
                case Wake():
                    if (berth := await self._sleepers.wake(resident.key)) is not None:
                        resident.berths.append(berth)
                case Shrink(key, place):
                    await self._give_up(self._residents[key], place)
                case Evict(key):
                    await self._leave(self._residents[key], may_sleep=True)
                case Yield(key):
                    logger.info("%s has had its turn and makes way for %s", key, resident.key)
                    self._residents[key].is_yielding = True
                case Refuse(reason):
                    raise NoWorker(reason)
                case Wait(seconds):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changes.after(version), seconds)
        # Who was to make way, and need not any more, goes on.
        for other in self._residents.values():
            other.is_yielding = False
        self._changes.tell()

    async def _make_memory(self, resident: Resident, place: int) -> None:
        """Sees to it that the worker finds its memory on the GPU. Raises NoWorker with the numbers when it will not."""
        slot, places = self._berths.slot(place), self._berths.neighbours(place)
        patience_until = self._clock() + self._settings.gpu_patience_seconds
        while (found := await asyncio.to_thread(self._gpus.obstacle, resident.model, slot)) is not None:
            step = None if isinstance(found, TooLarge) else relief(self._picture(), places)
            if isinstance(step, EndSleeper):
                await self._sleepers.end(step.key)
            elif isinstance(step, Evict):
                await self._leave(self._residents[step.key])
            elif isinstance(found, TooLarge) or self._clock() >= patience_until:
                raise NoWorker(found.reason, reason=DOES_NOT_FIT)
            else:
                # The driver takes a moment to give back what a process had that has just ended.
                await asyncio.sleep(self._settings.gpu_patience_seconds / 10)

    def _occupy(self, resident: Resident, place: int, *, gives_up_soon: bool = False) -> None:
        berth = self._berths.start(place, resident.model, gives_up_soon=gives_up_soon)
        logger.info("loading %s as %s", resident.key, berth.worker)
        resident.berths.append(berth)

    # -- growing ---------------------------------------------------------------------------

    async def _grow(self) -> None:
        while True:
            await asyncio.sleep(self._settings.look_seconds)
            for resident in self._residents.values():
                self._forget_retired(resident)
                note_fullness(resident, self._pool, self._clock())
            if self._taking_room.locked():
                continue
            if grown := growth(self._picture(), self._settings):
                logger.info("%s has no room left and gets one more worker", grown.key)
                self._enlarge(grown.key, grown.place)
            self._refill()

    def _refill(self) -> None:
        """Gives free places back to the models that were started with more."""
        while not self._taking_room.locked() and (grown := refill(self._picture())):
            self._enlarge(grown.key, grown.place)

    def _enlarge(self, key: str, place: int) -> None:
        resident = self._residents[key]
        resident.full_since = None
        resident.grown_at = self._clock()
        self._occupy(resident, place)

    def _forget_retired(self, resident: Resident) -> None:
        """Frees the places of workers that were drained by hand; they are not filled again unless somebody asks."""
        if resident.is_leaving:
            return
        for berth in [berth for berth in resident.berths if not self._berths.is_kept(berth)]:
            logger.info("%s was retired: its place is free", berth.worker)
            resident.berths.remove(berth)
            resident.share = max(resident.share - 1, 1)
            self._berths.forget(berth)
            self._changes.tell()

    async def _give_up(self, resident: Resident, place: int) -> None:
        """Takes one place of a model that has several; who had just got one asks for no other for a while."""
        now = self._clock()
        if now - resident.grown_at < self._settings.regrow_seconds:
            resident.stays_small_until = now + self._settings.regrow_seconds
        berth = next(berth for berth in resident.berths if berth.place == place)
        resident.berths.remove(berth)
        await self._berths.end(berth)

    # -- going -----------------------------------------------------------------------------

    def _is_dead(self, resident: Resident) -> bool:
        """Tells whether all its workers have been given up since it was loaded."""
        if not resident.is_loaded or resident.is_pinned:
            return False
        workers = [self._pool.find(name) for name in resident.workers]
        return all(worker is not None and worker.process.state is ProcessState.FAILED for worker in workers)

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
            # Who says that it is needed no more, by a keep_alive of 0, wants the memory back.
            self._task(self._leave(resident, may_sleep=bool(self._lifetime(resident))))

    async def _leave(self, resident: Resident, *, may_sleep: bool = False) -> None:
        """Ends a model's workers, or lets one of them sleep, and frees its places."""
        if resident.is_leaving:
            await resident.left.wait()
            return
        resident.is_leaving = True
        self._stay(resident)
        try:
            if may_sleep and resident.berths:
                await self._put_to_sleep(resident)
            await asyncio.gather(*(self._berths.end(berth) for berth in resident.berths))
        finally:
            resident.berths = []
            del self._residents[resident.key]
            self._expires(resident.key, None)
            resident.left.set()
            self._changes.tell()
        self._refill()

    async def _put_to_sleep(self, resident: Resident) -> None:
        """Lets one of a model's workers sleep if that is worth it; the others are ended like any."""
        berth = resident.berths[0]
        state = state_of(resident, self._pool)
        while isinstance(step := farewell(self._picture(), state, self._settings), EndSleeper):
            await self._sleepers.end(step.key)
        if not isinstance(step, Sleep):
            return
        try:
            await self._sleepers.put_to_sleep(resident.key, resident.model.names[0], berth, state.size_bytes)
        except NoWorker as error:
            logger.warning("%s does not fall asleep and is ended: %s", resident.key, error)
        else:
            resident.berths.remove(berth)

    # -- pictures --------------------------------------------------------------------------

    def _picture(self) -> MachineState:
        """Pictures the machine for a decision."""
        return MachineState(
            now=self._clock(),
            free=self._berths.free,
            models=tuple(state_of(resident, self._pool) for resident in self._residents.values()),
            sleepers=self._sleepers.states(),
            host_memory_bytes=self._host_memory_bytes(),
        )

    # -- tasks -----------------------------------------------------------------------------

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
