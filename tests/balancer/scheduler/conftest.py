"""A fleet whose workers exist only in a fake pool, ready when a test says so."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.change_counter import ChangeCounter
from vllama_balancer.errors import NoWorker
from vllama_balancer.fleet.assignment import HostedModel, Slot, WorkerSpec
from vllama_balancer.fleet.events import Changed, ProcessState
from vllama_balancer.scheduler.machine import Machine
from vllama_balancer.scheduler.memory import GpuMemory
from vllama_balancer.scheduler.replicas import Replicas
from vllama_balancer.scheduler.scheduler import ModelScheduler
from vllama_balancer.scheduler.settings import SchedulerSettings
from vllama_protos.v1 import fleet_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from vllama_balancer.fleet.devices import Gpu


@dataclass
class FakeWorker:
    """A worker as the pool shows it."""

    process: Changed
    report: worker_pb2.WorkerReport | None = None
    unavailable: str = "is starting"
    has_room: bool = True
    description: worker_pb2.DescribeResponse | None = None

    def candidate(self) -> object | None:
        """Returns itself while it has room."""
        return self if self.has_room else None


@dataclass
class FakeFleet:
    """Pool and fleet in one: workers become ready when they are added, unless their model is slow."""

    changes: ChangeCounter = field(default_factory=ChangeCounter)
    workers: dict[str, FakeWorker] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    """Which model each worker hosts."""
    log: list[str] = field(default_factory=list)
    """What was done, in order: start "+", end "-", sleep "z", wake "w"."""
    failures: dict[str, str] = field(default_factory=dict)
    """Models whose workers are given up, with the reason."""
    slow: set[str] = field(default_factory=set)
    """Models whose workers wait for `finish`."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Models that can sleep, and the bytes of their weights."""
    weights: dict[str, int] = field(default_factory=dict)
    """Bytes of models on disk, where they matter."""
    cannot_sleep: set[str] = field(default_factory=set)
    """Models that fail to fall asleep."""
    cannot_wake: set[str] = field(default_factory=set)
    """Models that fail to wake."""
    host_memory_bytes: int = 1000
    """What sleeping models may take in all."""
    cannot_add: Exception | None = None
    """What starting a worker raises."""
    memory_reads: int = 0
    """Times that the host's memory was read: once for each snapshot."""
    memory_error: OSError | None = None
    """What reading the host's memory raises."""
    gpu_list: tuple[Gpu, ...] = ()
    """GPUs as they are without our workers."""
    freed_by: dict[str, int] = field(default_factory=dict)
    """Bytes that a model's worker gives back to the GPUs when it ends."""
    residue_bytes: int = 0
    """Bytes of its GPU that a sleeping worker keeps."""

    def find(self, name: str) -> FakeWorker | None:
        return self.workers.get(name)

    def add(self, spec: WorkerSpec, *, fail_fast: bool = False) -> None:
        if self.cannot_add is not None:
            raise self.cannot_add
        model = spec.model.argument
        self.log.append(f"+{model}@{spec.name.removeprefix('worker-')}")
        state = ProcessState.FAILED if model in self.failures else ProcessState.RUNNING
        process = Changed(spec.name, state, self.failures.get(model, ""))
        description = worker_pb2.DescribeResponse(can_sleep=model in self.sizes)
        description.model_info.size_bytes = self.sizes.get(model, 0)
        self.workers[spec.name] = FakeWorker(process, unavailable="is starting", description=description)
        self.models[spec.name] = model
        if model not in self.slow and model not in self.failures:
            self.finish(model)
        self.changes.increment()

    def finish(self, model: str) -> None:
        """Makes the workers of a model ready."""
        for name, hosted in self.models.items():
            if hosted == model:
                self.workers[name].unavailable = ""
        self.changes.increment()

    def owns(self, name: str) -> bool:
        return name in self.workers

    def gpus(self) -> list[Gpu]:
        """Lists the GPUs: each sleeping worker keeps its residue."""
        asleep = sum(worker.unavailable == "is asleep" for worker in self.workers.values())
        return [replace(gpu, free_bytes=gpu.free_bytes - asleep * self.residue_bytes) for gpu in self.gpu_list]

    def host_memory(self) -> int:
        """Returns what sleeping models may take."""
        self.memory_reads += 1
        if self.memory_error is not None:
            raise self.memory_error
        return self.host_memory_bytes

    def cores(self) -> list[int]:
        return [0]

    async def retire(self, name: str) -> None:
        """Ends a worker; one that has left already is no error."""
        await asyncio.sleep(0)
        if name not in self.workers:
            return
        model, worker = self.models.pop(name), self.workers.pop(name)
        freed = self.freed_by.get(model, 0)
        self.gpu_list = tuple(replace(gpu, free_bytes=gpu.free_bytes + freed) for gpu in self.gpu_list)
        self.log.append(f"-{model}@{name.removeprefix('worker-')}")
        self.host_memory_bytes += self.sizes[model] if worker.unavailable == "is asleep" else 0
        self.changes.increment()

    async def sleep(self, worker: str) -> None:
        model = self.models.get(worker, "")
        if not model or model in self.cannot_sleep:
            raise NoWorker("cannot sleep")
        self.log.append(f"z{model}@{worker.removeprefix('worker-')}")
        await asyncio.sleep(0.005)
        if worker not in self.workers:
            raise NoWorker("has left")
        self.workers[worker].unavailable = "is asleep"
        self.host_memory_bytes -= self.sizes[model]
        self.changes.increment()

    async def wake(self, worker: str) -> None:
        model = self.models.get(worker, "")
        if not model or model in self.cannot_wake:
            raise NoWorker("cannot wake")
        self.log.append(f"w{model}@{worker.removeprefix('worker-')}")
        self.workers[worker].unavailable = ""
        self.host_memory_bytes += self.sizes[model]
        self.changes.increment()


class Expiries(dict[str, float | None]):
    """The expiry of each model as the catalog was last given it."""

    fails = False
    """Whether it is refused."""

    def set(self, model: str, seconds: float | None) -> None:
        if self.fails:
            raise OverflowError("date value out of range")
        self[model] = seconds


@dataclass
class Harness:
    """The scheduler under test, and its fleet."""

    fleet: FakeFleet
    scheduler: ModelScheduler
    expiries: Expiries

    def use(self, model: str, deadline: float | None = None):
        """Uses a model as a request does."""
        hosted = HostedModel(model, (model,), self.fleet.weights.get(model, 0))
        return self.scheduler.in_use(model, hosted, deadline)

    async def touch(self, model: str) -> None:
        """Uses a model for a moment."""
        async with self.use(model):
            pass

    def preload(self, *models: str, pinned: bool = True) -> None:
        """Loads models as the start of the balancer does."""
        self.scheduler.preload([(model, HostedModel(model, (model,))) for model in models], pinned=pinned)

    async def looked(self, times: int = 5) -> None:
        """Waits until the autoscaler has looked at the models so many times, while nothing else makes snapshots."""
        await self.until(lambda enough=self.fleet.memory_reads + times: self.fleet.memory_reads >= enough)

    async def waiting(self, model: str) -> None:
        """Waits until a model waits for its first slot."""
        await self.until(
            lambda: any(
                each.model == model and each.state == fleet_pb2.MODEL_STATE_WAITING
                for each in self.scheduler.statuses()
            )
        )

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Waits until a condition holds."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.001)

    async def logged(self, entry: str, seconds: float = 10.0) -> None:
        """Waits until the log has an entry."""
        await self.until(lambda: entry in self.fleet.log, seconds)


@pytest.fixture
async def harness_of() -> AsyncIterator[Callable[..., Harness]]:
    """Makes schedulers on a machine of so many slots."""
    made: list[ModelScheduler] = []

    def make(
        slot_count: int = 1, gpus: tuple[Gpu, ...] = (), *, awaits_preload: bool = False, **settings: float
    ) -> Harness:
        fleet = FakeFleet(gpu_list=gpus)
        expiries = Expiries()
        slots = [
            Slot(index, "cuda", {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)].selector})
            if gpus
            else Slot(index, "cpu", {})
            for index in range(slot_count)
        ]
        replicas = Replicas(fleet, slots, lambda slot, model: WorkerSpec(slot.index, model))
        machine = Machine(replicas, fleet, fleet, SchedulerSettings(**settings), fleet.host_memory)
        scheduler = ModelScheduler(machine, GpuMemory(fleet, None), expiries.set, awaits_preload=awaits_preload)
        made.append(scheduler)
        return Harness(fleet, scheduler, expiries)

    yield make
    for scheduler in made:
        with suppress(asyncio.CancelledError):
            await scheduler.close()
