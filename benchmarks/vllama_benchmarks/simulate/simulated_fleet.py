"""A fleet whose workers load, serve and leave in virtual time: launcher and pool of the model scheduler.

It uses no memory, devices or processes. A worker takes some seconds to load, serves a few streams at once, and finishes
them before it leaves.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllama_balancer.change_counter import ChangeCounter
from vllama_balancer.fleet.events import Changed, ProcessState
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.devices import Gpu

LOAD_SECONDS = 12.0
"""From the start of a worker to its first token."""
LEAVE_SECONDS = 1.0
"""From the end of a worker's last stream until its slot is free."""
STREAMS = 4
"""Streams that a worker serves at once."""


@dataclass(slots=True)
class Residency:
    """A model's time in a slot, from the start of its load."""

    model: str
    slot: int
    began: float
    """When its worker was started."""
    ready: float | None = None
    """When it could serve; None: never."""
    ended: float | None = None
    """When the slot was free again; None: not by the end."""


@dataclass(slots=True, eq=False)
class SimulatedWorker:
    """A worker as the model scheduler sees it."""

    residency: Residency
    process: Changed
    unavailable: str = "is starting"
    report: worker_pb2.WorkerReport | None = None
    description: worker_pb2.DescribeResponse | None = field(default_factory=worker_pb2.DescribeResponse)
    streams: int = 0

    def candidate(self) -> object | None:
        return self if self.streams < STREAMS else None


class SimulatedFleet:
    """Launcher, pool, sleep control and device probe of a model scheduler."""

    def __init__(self) -> None:
        self.changes = ChangeCounter()
        self.residencies: list[Residency] = []
        """Every load, in order."""
        self._workers: dict[str, SimulatedWorker] = {}
        self._clock = asyncio.get_running_loop().time

    # Calls of the model scheduler

    def find(self, name: str) -> SimulatedWorker | None:
        return self._workers.get(name)

    def owns(self, name: str) -> bool:
        return name in self._workers

    def gpus(self) -> list[Gpu]:
        return []

    def cores(self) -> list[int]:
        return [0]

    def add(self, spec: WorkerSpec, *, fail_fast: bool = False) -> None:
        residency = Residency(spec.model.argument, spec.index, self._clock())
        self.residencies.append(residency)
        self._workers[spec.name] = worker = SimulatedWorker(residency, Changed(spec.name, ProcessState.RUNNING))
        asyncio.get_running_loop().call_later(LOAD_SECONDS, self._ready, worker)
        self.changes.increment()

    async def retire(self, name: str) -> None:
        worker = self._workers[name]
        worker.unavailable = "is draining"
        while worker.streams:
            await self.changes.after(self.changes.version)
        await asyncio.sleep(LEAVE_SECONDS)
        del self._workers[name]
        worker.residency.ended = self._clock()
        self.changes.increment()

    async def sleep(self, worker: str) -> None:
        """Is never called: no worker can sleep."""
        raise NotImplementedError

    async def wake(self, worker: str) -> None:
        """Is never called."""
        raise NotImplementedError

    # Calls of the clients

    async def serve(self, model: str, seconds: float) -> float:
        """Generates on a worker of the model as soon as one has room; returns when it began."""
        while (worker := self._least_loaded(model)) is None:
            await self.changes.after(self.changes.version)
        worker.streams += 1
        began = self._clock()
        try:
            await asyncio.sleep(seconds)
        finally:
            worker.streams -= 1
            self.changes.increment()
        return began

    def _least_loaded(self, model: str) -> SimulatedWorker | None:
        workers = [
            one
            for one in self._workers.values()
            if one.residency.model == model and not one.unavailable and one.candidate()
        ]
        return min(workers, key=lambda worker: worker.streams, default=None)

    def _ready(self, worker: SimulatedWorker) -> None:
        if worker.unavailable == "is starting":
            worker.unavailable = ""
            worker.residency.ready = self._clock()
            self.changes.increment()
