"""The scheduler as requests see it: a model is loaded before its first request, and stays while it is used.

decisions.py decides what is done; loader, unloader and autoscaler do it, and requests wait here meanwhile. A model with
requests is never unloaded, and a pinned one keeps at least one slot.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from vllama_balancer.errors import DeadlineExceeded, QueueFull
from vllama_balancer.fleet.events import ProcessState
from vllama_balancer.gateway import keep_alive
from vllama_balancer.scheduler.autoscale import Autoscaler
from vllama_balancer.scheduler.loader import Loader
from vllama_balancer.scheduler.model import LoadedModel
from vllama_balancer.scheduler.unloader import Unloader
from vllama_protos.v1 import fleet_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from vllama_balancer.fleet.assignment import HostedModel
    from vllama_balancer.scheduler.machine import Machine
    from vllama_balancer.scheduler.memory import GpuMemory


class ModelScheduler:
    """Loads and unloads the models of a machine. Close it before the fleet."""

    def __init__(
        self,
        machine: Machine,
        gpus: GpuMemory,
        expires: Callable[[str, float | None], None],
        *,
        awaits_preload: bool = False,
    ) -> None:
        """Calls `expires` when a model's expiry changes: seconds from now, None for never.

        With `awaits_preload` nothing is loaded or unloaded before `preload` has been called: earlier requests wait, and
        take no slot from the models that the operator named.
        """
        self._machine = machine
        self._models = machine.models
        self._settings = machine.settings
        self._autoscaler = Autoscaler(machine)
        self._unloader = Unloader(machine, self._autoscaler, expires)
        self._loader = Loader(machine, self._autoscaler, self._unloader, gpus)
        self._loads: dict[LoadedModel, asyncio.Task[None]] = {}
        self._next_keep_alive: dict[str, float] = {}
        self._pinned: dict[str, int] = {}
        """Models that are never unloaded but by an operator's order, and their numbers of replicas."""
        self._waiting = 0
        self._has_served = False
        self._is_open = asyncio.Event()
        if not awaits_preload:
            self._is_open.set()
        machine.task(self._autoscaler.run())

    def is_pinned(self, key: str) -> bool:
        return key in self._pinned

    def is_loaded(self, key: str) -> bool:
        """Returns whether requests for a model go straight to its workers."""
        model = self._open_model(key)
        return model is not None and model.is_loaded

    @property
    def loads_on_demand(self) -> bool:
        """True if a request for a model that is not loaded waits for its load; False until a model has served."""
        return self._has_served and not self._pinned

    def statuses(self) -> list[fleet_pb2.ModelStatus]:
        """Lists the models that are loaded, being loaded, or asleep."""
        awake = [model.status() for model in self._models.values()]
        return awake + [model.status() for model in self._machine.sleeping.models()]

    def preload(self, models: Sequence[tuple[str, HostedModel]], *, pinned: bool) -> None:
        """Loads models onto all slots, in turn. Call it once; requests that wait for it continue."""
        for key, hosted in models:
            self._models[key] = LoadedModel(key, hosted, pinned=pinned, awaits_first_use=not pinned, share=0)
        order = list(self._models.values())
        for position in range(self._machine.replicas.count):
            model = order[position % len(order)]
            model.share += 1
            self._machine.occupy(model, self._machine.replicas.free[0])
        if pinned:
            self._pinned = {model.key: model.share for model in order}
        for model in order:
            self._begin(model, self._loader.until_ready)
        self._is_open.set()

    @contextlib.asynccontextmanager
    async def in_use(self, key: str, hosted: HostedModel, deadline: float | None = None) -> AsyncIterator[None]:
        """Keeps a model loaded inside the block, loading it first if need be.

        Raises NoWorker with the cause when it cannot be loaded, QueueFull when too many requests wait already, and
        DeadlineExceeded at the deadline (on the event loop's clock).
        """
        model = self._open_model(key)
        if model is None:
            async with self.waiting(deadline):
                await self._is_open.wait()
                model = await self._opened_model(key, hosted)
        model.requests += 1
        try:
            if model.awaits_first_use:
                model.awaits_first_use = False
                model.keep_alive_seconds = keep_alive(self._settings.keep_alive_seconds)
            self._unloader.stop_expiry(model)
            self._autoscaler.drop_retired(model)
            if model.is_loaded and not model.replicas:
                self._raise_if_just_failed(key, hosted)
                self._begin(model, self._loader.load)
            if not model.is_loaded:
                with model.awaited(deadline):
                    self._machine.changes.increment()
                    async with self.waiting(deadline):
                        await asyncio.shield(self._loads[model])
            yield
        finally:
            model.requests -= 1
            model.last_used = self._machine.clock()
            self._machine.changes.increment()
            self._unloader.start_expiry(model)

    def keep(self, key: str, seconds: float) -> None:
        """Replaces how long a model stays after its last request."""
        model = self._models.get(key)
        if model is None or model.is_leaving:
            self._next_keep_alive[key] = seconds
        elif not model.pinned:
            model.awaits_first_use = False
            model.keep_alive_seconds = keep_alive(seconds)
            self._unloader.start_expiry(model)

    async def unload(self, key: str, *, even_pinned: bool = False) -> fleet_pb2.UnloadOutcome:
        """Unloads a model: now when it is idle or asleep, else as soon as it is idle; its next request loads it again.

        A pinned one stays unless `even_pinned`.
        """
        await self._is_open.wait()
        self._machine.load_failures.forget(key)
        while (model := self._models.get(key)) is not None and model.is_leaving:
            await self._machine.unloaded(model)
        was_asleep = await self._machine.sleeping.end(key)
        model = self._models.get(key)
        if model is None or (model.pinned and not even_pinned):
            return fleet_pb2.UNLOAD_OUTCOME_UNLOADED if was_asleep else fleet_pb2.UNLOAD_OUTCOME_NOT_LOADED
        model.unload_requested = True
        if not model.is_idle:
            return fleet_pb2.UNLOAD_OUTCOME_WHEN_IDLE
        await self._unloader.unload(model)
        return fleet_pb2.UNLOAD_OUTCOME_UNLOADED

    async def close(self) -> None:
        """Ends all loading and unloading; the fleet ends the workers."""
        for model in self._models.values():
            self._unloader.stop_expiry(model)
        await self._machine.close()

    @contextlib.asynccontextmanager
    async def waiting(self, deadline: float | None) -> AsyncIterator[None]:
        """Bounds a wait: in time by the deadline, in number by `max_waiting`. Raises DeadlineExceeded, QueueFull."""
        if self._waiting >= self._settings.max_waiting:
            raise QueueFull("too many requests wait for models to load", retry_after_seconds=5.0)
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while the model was loaded") from None
        finally:
            self._waiting -= 1

    def _open_model(self, key: str) -> LoadedModel | None:
        """Returns a model that takes requests now, or will once it has loaded."""
        model = self._models.get(key)
        if model is None or model.is_leaving or model.paused or self._has_failed(model):
            return None
        return model

    async def _opened_model(self, key: str, hosted: HostedModel) -> LoadedModel:
        """Begins to load a model, after it has left or resumed where that is due."""
        changes = self._machine.changes
        while (model := self._models.get(key)) is not None:
            if not model.is_leaving and self._has_failed(model):
                await self._unloader.unload(model)
            elif model.is_leaving or model.paused:
                await changes.after(changes.version)
            else:
                return model
        self._raise_if_just_failed(key, hosted)
        keep_alive_seconds = self._next_keep_alive.pop(key, self._settings.keep_alive_seconds)
        model = LoadedModel(
            key,
            hosted,
            pinned=key in self._pinned,
            share=self._pinned.get(key, 1),
            keep_alive_seconds=keep_alive(keep_alive_seconds),
            was_just_evicted=self._machine.eviction_history.was_just_evicted(key, self._machine.clock()),
        )
        self._models[key] = model
        self._begin(model, self._loader.load)
        return model

    def _raise_if_just_failed(self, key: str, hosted: HostedModel) -> None:
        self._machine.load_failures.raise_if_remembered(key, hosted, self._machine.clock())

    def _begin(self, model: LoadedModel, load: Callable[[LoadedModel], Awaitable[None]]) -> None:
        model.load_pending = True
        self._loads[model] = self._machine.task(self._run(model, load))

    async def _run(self, model: LoadedModel, load: Callable[[LoadedModel], Awaitable[None]]) -> None:
        """Makes the model ready at the end, and starts its expiry: the request for it may have been cancelled."""
        try:
            await load(model)
            self._has_served = True
        finally:
            del self._loads[model]
            model.ready_at = self._machine.clock()
            model.load_pending = False
            if self._machine.holds(model):
                self._machine.note_ready(model)
                self._unloader.start_expiry(model)
            self._machine.changes.increment()

    def _has_failed(self, model: LoadedModel) -> bool:
        """Returns whether all workers of a loaded model have been given up."""
        if not model.is_loaded or model.pinned:
            return False
        workers = [self._machine.pool.find(name) for name in model.workers]
        return all(worker is not None and worker.process.state is ProcessState.FAILED for worker in workers)
