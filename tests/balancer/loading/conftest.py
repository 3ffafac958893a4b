"""A workshop whose workers exist only in a fake pool, ready when a test says so."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.fleet.assignment import HostedModel, Slot, WorkerSpec
from vllama_balancer.fleet.events import Changed, ProcessState
from vllama_balancer.loading.residents import Residents
from vllama_balancer.loading.settings import LoadingSettings
from vllama_balancer.workers.changes import Changes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from vllama_protos.v1 import worker_pb2


@dataclass
class FakeWorker:
    """A worker as the pool would show it."""

    process: Changed
    report: worker_pb2.WorkerReport | None = None
    unavailable: str = "is starting"
    has_room: bool = True

    def candidate(self) -> object | None:
        """Something while it has room."""
        return self if self.has_room else None


@dataclass
class Machine:
    """Pool and fleet in one: workers start when they are added and become ready at once, unless told otherwise."""

    changes: Changes = field(default_factory=Changes)
    workers: dict[str, FakeWorker] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    """Which model each worker hosts."""
    log: list[str] = field(default_factory=list)
    """What was done, in order."""
    failures: dict[str, str] = field(default_factory=dict)
    """Models whose workers are given up, with the reason."""
    slow: set[str] = field(default_factory=set)
    """Models whose workers wait for `finish`."""

    def find(self, name: str) -> FakeWorker | None:
        """Finds a worker."""
        return self.workers.get(name)

    def add(self, spec: WorkerSpec, *, gives_up_soon: bool = False) -> None:
        """Starts a worker."""
        model = spec.model.argument
        self.log.append(f"+{model}@{spec.index}")
        state = ProcessState.FAILED if model in self.failures else ProcessState.RUNNING
        process = Changed(spec.name, state, self.failures.get(model, ""))
        self.workers[spec.name] = FakeWorker(process, unavailable="is starting")
        self.models[spec.name] = model
        if model not in self.slow and model not in self.failures:
            self.finish(model)
        self.changes.tell()

    def finish(self, model: str) -> None:
        """Makes the workers of a model ready."""
        for name, hosted in self.models.items():
            if hosted == model:
                self.workers[name].unavailable = ""
        self.changes.tell()

    async def retire(self, name: str) -> None:
        """Ends a worker."""
        await asyncio.sleep(0)
        self.log.append(f"-{self.models.pop(name)}@{name.removeprefix('worker-')}")
        del self.workers[name]
        self.changes.tell()


@dataclass
class Loading:
    """The residents under test, and the machine beneath them."""

    machine: Machine
    residents: Residents
    expiries: dict[str, float | None]

    def use(self, model: str, deadline: float | None = None):
        """Uses a model as a request does."""
        return self.residents.used(model, HostedModel(model, (model,)), deadline)

    async def touch(self, model: str) -> None:
        """Uses a model for a moment."""
        async with self.use(model):
            pass

    def preload(self, *models: str, pinned: bool = True) -> None:
        """Loads models at the start."""
        self.residents.preload([(model, HostedModel(model, (model,))) for model in models], pinned=pinned)

    async def logged(self, entry: str, seconds: float = 10.0) -> None:
        """Waits until something has been done."""
        async with asyncio.timeout(seconds):
            while entry not in self.machine.log:
                await asyncio.sleep(0.001)


@pytest.fixture
async def loading_of() -> AsyncIterator[Callable[..., Loading]]:
    """Makes residents on a machine of so many places."""
    made: list[Residents] = []

    def make(places: int = 1, **settings: float) -> Loading:
        machine = Machine()
        expiries: dict[str, float | None] = {}
        residents = Residents(
            machine, machine, [Slot(index, "cpu", {}) for index in range(places)],
            lambda slot, model: WorkerSpec(slot.index, model), LoadingSettings(**settings), expiries.__setitem__,
        )  # fmt: skip
        made.append(residents)
        return Loading(machine, residents, expiries)

    yield make
    for residents in made:
        with suppress(asyncio.CancelledError):
            await residents.close()
