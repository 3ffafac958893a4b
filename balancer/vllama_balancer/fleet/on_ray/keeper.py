"""Keeps one worker alive on the cluster: through its own deaths, its node's, and the cluster's lack of room.

What ends a worker decides what follows. A process that dies is started again on its node after a pause, as a
local one is, and given up when it keeps dying. A node that goes takes its worker with it through no fault of the
worker's: Ray finds another node, and nothing is counted against anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from vllama_balancer.fleet.events import Added, Changed, ProcessState, Removed
from vllama_balancer.fleet.on_ray.seat import SeatLost
from vllama_balancer.fleet.restarts import EXIT_START_FAILED
from vllama_balancer.fleet.revival import Revival

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.events import FleetEvent
    from vllama_balancer.fleet.on_ray.seat import Placed, SeatMaker
    from vllama_balancer.fleet.restarts import RestartSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

STOP_GRACE_SECONDS = 5.0
"""How much longer than its drain a worker may take to end."""
LOST_PAUSE_SECONDS = 0.2
"""Between the loss of a node and the next call of the actor, which Ray is about to move."""


class Left(Exception):
    """The keeper was told to leave while it waited."""


class Keeper:
    """Owns one worker through all its lives and nodes. `run` it in a task, and `stop` or `kill` it at the end."""

    def __init__(
        self,
        spec: WorkerSpec,
        make_seat: SeatMaker,
        settings: RestartSettings,
        tell: Callable[[FleetEvent], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self._seat = make_seat()
        self._revival = Revival(spec.name, settings, self._change)
        self._tell = tell
        self._clock = clock
        self._running = False
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        """Lives until `stop` or `kill`. The worker is announced at once, without an address until it has one."""
        self._tell(Added(self.spec.name, "", self.spec.model.names, is_kept=True))
        self._change(ProcessState.PLACING, f"waits for {self._seat.needs}")
        try:
            with contextlib.suppress(Left):
                while True:
                    await self._live()
        finally:
            await self._seat.leave()
            self._tell(Removed(self.spec.name, "was stopped"))

    async def restart(self, drain_seconds: float) -> None:
        """Ends the present life; the next one begins at once."""
        self._revival.ask_anew()
        await self._end_process(drain_seconds)

    async def stop(self, drain_seconds: float) -> None:
        """Drains the worker and ends `run`."""
        self._change(ProcessState.STOPPED, "is being stopped")
        self._revival.ask()
        await self._end_process(drain_seconds)
        self._leaving.set()

    def kill(self) -> None:
        """Ends `run` at once, and the worker with it."""
        self._leaving.set()

    async def _end_process(self, drain_seconds: float) -> None:
        if not self._running:
            return
        patience = drain_seconds + STOP_GRACE_SECONDS
        # A node that has hung never answers.
        with contextlib.suppress(SeatLost, TimeoutError):
            await asyncio.wait_for(self._seat.stop(patience), patience + STOP_GRACE_SECONDS)

    async def _live(self) -> None:
        self._revival.begin()
        try:
            placed = await self._unless_leaving(self._seat.start(asdict(self.spec)))
            born = self._clock()
            self._began(placed)
            status, cause = await self._unless_leaving(self._seat.ended())
        except SeatLost as loss:
            await self._lost(str(loss))
        except OSError as error:
            await self._died(EXIT_START_FAILED, 0.0, f"it could not be started: {error}")
        else:
            await self._died(status, self._clock() - born, cause)
        finally:
            self._running = False

    def _began(self, placed: Placed) -> None:
        self._running = True
        logger.info("%s runs on node %s at %s", self.spec.name, placed.node, placed.address)
        # A new life has a new address: it replaces the old one.
        restarts = self._revival.restarts
        self._tell(Added(self.spec.name, placed.address, self.spec.model.names, restarts=restarts, is_kept=True))

    async def _lost(self, reason: str) -> None:
        # While no node has room, Ray fails the waiting call now and then: that is no news.
        if self._running:
            self._revival.restarts += 1
            logger.warning("%s has lost its node and waits for %s: %s", self.spec.name, self._seat.needs, reason)
            self._change(ProcessState.PLACING, f"waits for {self._seat.needs}; its last node is gone")
        await self._unless_leaving(asyncio.sleep(LOST_PAUSE_SECONDS))

    async def _died(self, status: int, lived_seconds: float, cause: str) -> None:
        await self._unless_leaving(self._revival.after_death(status, lived_seconds, cause))

    async def _unless_leaving(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits the work. Raises Left, and cancels it, when the keeper is told to leave first."""
        task = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                raise Left
            return task.result()
        finally:
            for waiting in (task, leaving):
                waiting.cancel()
            await asyncio.wait({task, leaving})

    def _change(self, state: ProcessState, reason: str = "", delay_seconds: float | None = None) -> None:
        self._tell(Changed(self.spec.name, state, reason, 0, self._revival.restarts, delay_seconds))
