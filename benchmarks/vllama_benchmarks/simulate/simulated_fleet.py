"""A machine whose workers load, serve and leave in made-up time: the fleet and the pool of the loading policy.

What it asks of nobody is memory, devices and processes. A worker takes some seconds to load, serves
a few streams at once, and finishes them before it leaves.
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
"""From the end of a worker's last stream to its place being free."""
STREAMS = 4
"""What a worker serves at once."""


@dataclass(slots=True)
class Residency:
    """A model's time at a place."""

    model: str
    place: int
    began: float
    """When its worker was started."""
    ready: float | None = None
    """When it could serve; None: never."""
    ended: float | None = None
    """When the place was free again; None: not by the end."""


@dataclass(slots=True, eq=False)
class SimulatedWorker:
    """A worker of the machine, as the loading policy looks at it."""

    stay: Residency
    process: Changed
    unavailable: str = "is starting"
    report: worker_pb2.WorkerReport | None = None
    description: worker_pb2.DescribeResponse | None = field(default_factory=worker_pb2.DescribeResponse)
    streams: int = 0

    def candidate(self) -> object | None:
        """Itself while it has room."""
        return self if self.streams < STREAMS else None


class SimulatedFleet:
    """WorkerLauncher, pool, sleep control and device probe of a loading policy."""

    def __init__(self) -> None:
        self.changes = ChangeCounter()
        self.stays: list[Residency] = []
        """Everything that was ever loaded, in order."""
        self._hands: dict[str, SimulatedWorker] = {}
        self._clock = asyncio.get_running_loop().time

    # -- what the loading policy asks ------------------------------------------------------

    def find(self, name: str) -> SimulatedWorker | None:
        """Finds a worker."""
        return self._hands.get(name)

    def owns(self, name: str) -> bool:
        """Tells whether a worker is there."""
        return name in self._hands

    def gpus(self) -> list[Gpu]:
        """Lists none."""
        return []

    def cores(self) -> list[int]:
        """Lists one."""
        return [0]

    def add(self, spec: WorkerSpec, *, fail_fast: bool = False) -> None:
        """Starts a worker."""
        stay = Residency(spec.model.argument, spec.index, self._clock())
        self.stays.append(stay)
        self._hands[spec.name] = hand = SimulatedWorker(stay, Changed(spec.name, ProcessState.RUNNING))
        asyncio.get_running_loop().call_later(LOAD_SECONDS, self._ready, hand)
        self.changes.increment()

    async def retire(self, name: str) -> None:
        """Ends a worker after its streams."""
        hand = self._hands[name]
        hand.unavailable = "is draining"
        while hand.streams:
            await self.changes.after(self.changes.version)
        await asyncio.sleep(LEAVE_SECONDS)
        del self._hands[name]
        hand.stay.ended = self._clock()
        self.changes.increment()

    async def sleep(self, worker: str) -> None:
        """Is never asked: no worker says that it can."""
        raise NotImplementedError

    async def wake(self, worker: str) -> None:
        """Is never asked either."""
        raise NotImplementedError

    # -- what clients ask ------------------------------------------------------------------

    async def serve(self, model: str, seconds: float) -> float:
        """Generates for so long on a worker of the model, as soon as one has room; returns when that was."""
        while (hand := self._roomiest(model)) is None:
            await self.changes.after(self.changes.version)
        hand.streams += 1
        began = self._clock()
        try:
            await asyncio.sleep(seconds)
        finally:
            hand.streams -= 1
            self.changes.increment()
        return began

    def _roomiest(self, model: str) -> SimulatedWorker | None:
        hands = [h for h in self._hands.values() if h.stay.model == model and not h.unavailable and h.candidate()]
        return min(hands, key=lambda hand: hand.streams, default=None)

    def _ready(self, hand: SimulatedWorker) -> None:
        if hand.unavailable == "is starting":
            hand.unavailable = ""
            hand.stay.ready = self._clock()
            self.changes.increment()
