"""The loaded models as requests see them: each is kept loaded while it is used, and loaded first if need be.

A place is one worker's share of the machine. What is to be done is decided in `decisions.py`, from a picture of the
machine; arrivals, departures and growth do it, and here requests wait meanwhile. Pinned models keep at least one
place for ever, and a model with requests is never unloaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING

from vllama_balancer.errors import DeadlineExceeded, QueueFull
from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.loading.arrivals import Arrivals
from vllama_balancer.loading.departures import Departures
from vllama_balancer.loading.growth import Growth
from vllama_balancer.loading.picture import status_of
from vllama_balancer.loading.resident import Resident

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from typing import Any

    from vllama_balancer.fleet.assignment import HostedModel
    from vllama_balancer.loading.gpu_room import GpuRoom
    from vllama_balancer.loading.roster import Roster
    from vllama_protos.v1 import fleet_pb2


class Residents:
    """The loaded models. Close it before the fleet."""

    def __init__(
        self,
        roster: Roster,
        gpus: GpuRoom,
        expires: Callable[[str, float | None], None],
        *,
        awaits_preload: bool = False,
    ) -> None:
        """Tells `expires` when a model will leave: seconds from now, None for never.

        With `awaits_preload` nothing is loaded or unloaded before `preload` has been called: whoever asks earlier
        waits, and takes no place from the models that the operator named.
        """
        self._roster = roster
        self._residents = roster.residents
        self._settings = roster.settings
        self._growth = Growth(roster)
        self._departures = Departures(roster, self._growth, expires)
        self._arrivals = Arrivals(roster, self._growth, self._departures, gpus)
        self._wished: dict[str, float] = {}
        self._waiting = 0
        self._has_served = False
        self._is_open = asyncio.Event()
        if not awaits_preload:
            self._is_open.set()
        roster.task(self._growth.run())

    # -- what it is asked ------------------------------------------------------------------

    def is_pinned(self, key: str) -> bool:
        """Tells whether a model never leaves."""
        resident = self._residents.get(key)
        return resident is not None and resident.is_pinned

    def is_loaded(self, key: str) -> bool:
        """Tells whether requests for a model go straight to its workers."""
        resident = self._present(key)
        return resident is not None and resident.is_loaded

    @property
    def loads_on_demand(self) -> bool:
        """Whether a request for a model that is not loaded waits while it is being loaded, once one has served."""
        return self._has_served and not any(resident.is_pinned for resident in self._residents.values())

    def statuses(self) -> list[fleet_pb2.ModelStatus]:
        """Lists the models that are loaded, being loaded, or asleep."""
        awake = [status_of(resident) for resident in self._residents.values()]
        return awake + self._roster.sleepers.statuses()

    # -- what it is told -------------------------------------------------------------------

    def preload(self, models: Sequence[tuple[str, HostedModel]], *, pinned: bool) -> None:
        """Loads models onto all places, in turn. Call it once; requests that wait for it go on."""
        for key, model in models:
            self._residents[key] = Resident(key, model, is_pinned=pinned, awaits_first_use=not pinned, share=0)
        order = list(self._residents.values())
        for position in range(self._roster.berths.count):
            resident = order[position % len(order)]
            resident.share += 1
            self._roster.occupy(resident, self._roster.berths.free[0])
        for resident in order:
            self._begin(resident, self._arrivals.until_ready(resident))
        self._is_open.set()

    @contextlib.asynccontextmanager
    async def used(self, key: str, model: HostedModel, deadline: float | None = None) -> AsyncIterator[None]:
        """Keeps a model loaded inside the block, loading it first if need be.

        Raises NoWorker with the cause when it cannot be loaded, QueueFull when too many wait already, and
        DeadlineExceeded at the deadline (on the event loop's clock).
        """
        resident = self._present(key)
        if resident is None:
            async with self.patience(deadline):
                await self._is_open.wait()
                resident = await self._presented(key, model)
        resident.users += 1
        if resident.awaits_first_use:
            resident.awaits_first_use = False
            resident.keep_alive_seconds = _forever_if_negative(self._settings.keep_alive_seconds)
        self._departures.stay(resident)
        try:
            self._growth.forget_retired(resident)
            if resident.is_loaded and not resident.berths:
                self._begin(resident, self._arrivals.load(resident))
            if not resident.is_loaded:
                with resident.awaited(deadline):
                    self._roster.changes.tell()
                    async with self.patience(deadline):
                        assert resident.loading is not None
                        await asyncio.shield(resident.loading)
            yield
        finally:
            resident.users -= 1
            resident.last_used = self._roster.clock()
            self._departures.idle(resident)
            self._roster.changes.tell()

    def keep(self, key: str, seconds: float) -> None:
        """Replaces how long a model stays after its last request."""
        resident = self._residents.get(key)
        if resident is None or resident.is_leaving:
            self._wished[key] = seconds
        elif not resident.is_pinned:
            resident.awaits_first_use = False
            resident.keep_alive_seconds = _forever_if_negative(seconds)
            self._departures.idle(resident)

    async def unload(self, key: str) -> None:
        """Lets a model go: now when it is idle or asleep, else as soon as it is idle."""
        await self._is_open.wait()
        while (resident := self._residents.get(key)) is not None and resident.is_leaving:
            await resident.left.wait()
        await self._roster.sleepers.end(key)
        resident = self._residents.get(key)
        if resident is None or resident.is_pinned:
            return
        resident.is_going = True
        if resident.is_idle:
            await self._departures.leave(resident)

    async def close(self) -> None:
        """Ends all loading and unloading; the workers are the fleet's to end."""
        for resident in self._residents.values():
            self._departures.stay(resident)
        await self._roster.close()

    # -- waiting ---------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def patience(self, deadline: float | None) -> AsyncIterator[None]:
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
        changes = self._roster.changes
        while (resident := self._residents.get(key)) is not None:
            if not resident.is_leaving and self._is_dead(resident):
                await self._departures.leave(resident)
            elif resident.is_leaving or resident.is_yielding:
                await changes.after(changes.version)
            else:
                return resident
        wished = self._wished.pop(key, self._settings.keep_alive_seconds)
        is_back = self._roster.comebacks.is_back(key, self._roster.clock())
        resident = Resident(key, model, keep_alive_seconds=_forever_if_negative(wished), is_back=is_back)
        self._residents[key] = resident
        self._begin(resident, self._arrivals.load(resident))
        return resident

    def _begin(self, resident: Resident, load: Coroutine[Any, Any, None]) -> None:
        resident.loading = self._roster.task(load)
        resident.loading.add_done_callback(lambda loaded: self._settled(resident, loaded))

    def _settled(self, resident: Resident, loaded: asyncio.Future[None]) -> None:
        """Looks at a model whose load has ended: whoever asked for it may be gone."""
        resident.ready_at = self._roster.clock()
        self._has_served |= not loaded.cancelled() and loaded.exception() is None
        if not resident.is_leaving:
            self._departures.idle(resident)
        self._roster.changes.tell()

    def _is_dead(self, resident: Resident) -> bool:
        """Tells whether all its workers have been given up since it was loaded."""
        if not resident.is_loaded or resident.is_pinned:
            return False
        workers = [self._roster.pool.find(name) for name in resident.workers]
        return all(worker is not None and worker.process.state is ProcessState.FAILED for worker in workers)


def _forever_if_negative(seconds: float) -> float:
    return math.inf if seconds < 0 else seconds
