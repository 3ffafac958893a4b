"""What a keeper asks of the cluster: a seat for one worker, wherever there is room.

Behind a protocol, so that the keeping of workers is tested without a cluster.

Keeps one worker alive on the cluster: through its own deaths, its node's, and the cluster's lack of room.

What ends a worker decides what follows. A process that dies is started again on its node after a pause, as a
local one is, and given up when it keeps dying. A node that goes takes its worker with it through no fault of the
worker's: Ray finds another node, and nothing is counted against anybody.

All workers of one cluster: one keeper for each, and the orders that they are given.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vllama_balancer.fleet.events import Added, Changed, ProcessState, Removed
from vllama_balancer.fleet.on_ray.messages import Close, Restart, Retire, Start
from vllama_balancer.fleet.restart_policy import EXIT_START_FAILED, RestartBackoff

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.events import FleetEvent
    from vllama_balancer.fleet.on_ray.messages import DriverCommand
    from vllama_balancer.fleet.restart_policy import RestartSettings


@dataclass(frozen=True, slots=True)
class Placed:
    """A worker process that runs."""

    address: str
    """"host:port" of its gRPC server."""
    node: str
    """Where that is, for people."""


class ActorLost(Exception):
    """The node or the actor of a seat has gone; `str()` is a sentence for people."""


class ActorSlot(Protocol):
    """One worker's reservation: its GPUs on a node, and the actor that holds them."""

    needs: str
    """What it waits for while no node has room, for people: "a node with 1 free GPU"."""

    async def start(self, spec: dict[str, object]) -> Placed:
        """Starts the worker where the seat is, waiting for room as long as it takes.

        Raises ActorLost when the node goes meanwhile, and OSError when the process cannot be started. May be
        called again after either, and after the worker's end: Ray moves the seat to another node by itself.
        """
        ...

    async def ended(self) -> tuple[int, str]:
        """Waits for the worker's end; its exit status and cause. Raises ActorLost when the node goes first."""
        ...

    async def stop(self, timeout_seconds: float) -> None:
        """Lets the worker drain and end, killed after the time-out. Raises ActorLost."""
        ...

    async def leave(self) -> None:
        """Gives the reservation up; what still runs there is killed."""
        ...


class ActorSlotFactory(Protocol):
    """Reserves seats."""

    def __call__(self) -> ActorSlot:
        """Asks for one more seat; returns at once."""
        ...


logger = logging.getLogger(__name__)

T = TypeVar("T")

STOP_GRACE_SECONDS = 5.0
"""How much longer than its drain a worker may take to end."""
LOST_PAUSE_SECONDS = 0.2
"""Between the loss of a node and the next call of the actor, which Ray is about to move."""


class StopRequested(Exception):
    """The keeper was told to leave while it waited."""


class ActorSupervisor:
    """Owns one worker through all its lives and nodes. `run` it in a task, and `stop` or `kill` it at the end."""

    def __init__(
        self,
        spec: WorkerSpec,
        make_seat: ActorSlotFactory,
        settings: RestartSettings,
        tell: Callable[[FleetEvent], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self._seat = make_seat()
        self._backoff = RestartBackoff(spec.name, settings, self._change)
        self._tell = tell
        self._clock = clock
        self._running = False
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        """Lives until `stop` or `kill`. The worker is announced at once, without an address until it has one."""
        self._tell(Added(self.spec.name, "", self.spec.model.names, is_supervised=True))
        self._change(ProcessState.PLACING, f"waits for {self._seat.needs}")
        try:
            with contextlib.suppress(StopRequested):
                while True:
                    await self._live()
        finally:
            await self._seat.leave()
            self._tell(Removed(self.spec.name, "was stopped"))

    async def restart(self, drain_seconds: float) -> None:
        """Ends the present life; the next one begins at once."""
        self._backoff.restart_now()
        await self._end_process(drain_seconds)

    async def stop(self, drain_seconds: float) -> None:
        """Drains the worker and ends `run`."""
        self._change(ProcessState.STOPPED, "is being stopped")
        self._backoff.skip_wait()
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
        with contextlib.suppress(ActorLost, TimeoutError):
            await asyncio.wait_for(self._seat.stop(patience), patience + STOP_GRACE_SECONDS)

    async def _live(self) -> None:
        self._backoff.begin()
        try:
            placed = await self._unless_leaving(self._seat.start(asdict(self.spec)))
            born = self._clock()
            self._began(placed)
            status, cause = await self._unless_leaving(self._seat.ended())
        except ActorLost as loss:
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
        restarts = self._backoff.restarts
        self._tell(Added(self.spec.name, placed.address, self.spec.model.names, restarts=restarts, is_supervised=True))

    async def _lost(self, reason: str) -> None:
        # While no node has room, Ray fails the waiting call now and then: that is no news.
        if self._running:
            self._backoff.restarts += 1
            logger.warning("%s has lost its node and waits for %s: %s", self.spec.name, self._seat.needs, reason)
            self._change(ProcessState.PLACING, f"waits for {self._seat.needs}; its last node is gone")
        await self._unless_leaving(asyncio.sleep(LOST_PAUSE_SECONDS))

    async def _died(self, status: int, uptime_seconds: float, cause: str) -> None:
        await self._unless_leaving(self._backoff.after_exit(status, uptime_seconds, cause))

    async def _unless_leaving(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits the work. Raises StopRequested, and cancels it, when the keeper is told to leave first."""
        task = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                raise StopRequested
            return task.result()
        finally:
            for waiting in (task, leaving):
                waiting.cancel()
            await asyncio.wait({task, leaving})

    def _change(self, state: ProcessState, reason: str = "", delay_seconds: float | None = None) -> None:
        self._tell(Changed(self.spec.name, state, reason, 0, self._backoff.restarts, delay_seconds))


class ActorSupervisors:
    """Owns the keepers and their tasks. `abandon` must be awaited at the end."""

    def __init__(
        self, make_seat: ActorSlotFactory, settings: RestartSettings, tell: Callable[[FleetEvent], None]
    ) -> None:
        self._make_seat = make_seat
        self._settings = settings
        self._tell = tell
        self._keepers: dict[str, tuple[ActorSupervisor, asyncio.Task[None]]] = {}
        self._errands: set[asyncio.Task[Any]] = set()
        self.is_closing = False
        """Whether the order to close has come; no other follows it."""

    def obey(self, order: DriverCommand) -> None:
        """Begins to carry out an order; the events tell what comes of it."""
        match order:
            case Start():
                self._start(order)
            case Restart(name, seconds) if name in self._keepers:
                self._errand(self._keepers[name][0].restart(seconds))
            case Retire(name, seconds) if name in self._keepers:
                self._errand(self._retire(name, seconds))
            case Close(seconds):
                self.is_closing = True
                for name in tuple(self._keepers):
                    self._errand(self._retire(name, seconds))

    async def closed(self) -> None:
        """Waits until the errands are done: after Close, until nothing runs on the cluster any more."""
        while self.is_closing and self._errands:
            await asyncio.wait(tuple(self._errands))

    async def abandon(self) -> None:
        """Ends all workers now."""
        for errand in tuple(self._errands):
            errand.cancel()
        for keeper, _ in self._keepers.values():
            keeper.kill()
        ending = [*self._errands, *(task for _, task in self._keepers.values())]
        await asyncio.gather(*ending, return_exceptions=True)

    def _start(self, order: Start) -> None:
        spec = order.worker_spec()
        settings = replace(self._settings, max_failed_starts=1) if order.fail_fast else self._settings
        keeper = ActorSupervisor(spec, self._make_seat, settings, self._tell)
        task = asyncio.create_task(keeper.run(), name=f"keeper of {spec.name}")
        task.add_done_callback(self._done)
        self._keepers[spec.name] = (keeper, task)

    async def _retire(self, name: str, drain_seconds: float) -> None:
        keeper, task = self._keepers[name]
        await keeper.stop(drain_seconds)
        await task
        # Its name may have been given again as soon as its end was told.
        if self._keepers.get(name) == (keeper, task):
            del self._keepers[name]

    def _errand(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the keeping of workers failed for a reason that nobody foresaw", exc_info=error)
