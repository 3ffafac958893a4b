"""Supervisors of the workers on a cluster, and the interface to the cluster that they need.

How a worker ends decides what follows. A process that crashes is restarted on its node after a pause, as a local one
is, and given up when it keeps crashing. A lost node is not the worker's fault: Ray finds another node, and nothing is
counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vllama_balancer.fleet.events import Added, Changed, ProcessState, Removed
from vllama_balancer.fleet.on_ray.messages import Close, Restart, Retire, Start
from vllama_balancer.fleet.restart_policy import RestartBackoff

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.events import FleetEvent
    from vllama_balancer.fleet.on_ray.messages import DriverCommand
    from vllama_balancer.fleet.process import Exit
    from vllama_balancer.fleet.restart_policy import RestartSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

STOP_GRACE_SECONDS = 5.0
"""How much longer than its drain a worker may take to end."""
LOST_PAUSE_SECONDS = 0.2
"""Between the loss of a node and the next call of the actor, which Ray is about to move."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Address and node of a running worker process."""

    address: str
    """"host:port" of its gRPC server."""
    node: str
    """Name of the node."""


class ActorLost(Exception):
    """The node or the actor of a slot has gone; `str()` is one sentence."""


class ActorSlot(Protocol):
    """Reservation of one worker on the cluster: its GPUs on a node, and the actor that holds them."""

    needs: str
    """Resources that it waits for while no node has room, in words: "a node with 1 free GPU"."""

    async def start(self, spec: WorkerSpec) -> Placed:
        """Starts the worker on the slot's node, waiting for room as long as it takes.

        Raises ActorLost when the node is lost meanwhile, and OSError when the process cannot be started. May be
        called again after either, and after the worker's end: Ray moves the slot to another node by itself.
        """
        ...

    async def ended(self) -> Exit:
        """Waits for the worker's end and returns it. Raises ActorLost."""
        ...

    async def stop(self, timeout_seconds: float) -> None:
        """Drains and ends the worker, which is killed after the time-out. Raises ActorLost."""
        ...

    async def leave(self) -> None:
        """Releases the reservation, and kills what still runs there."""
        ...


class StopRequested(Exception):
    """The supervisor was stopped while it waited."""


class ActorSupervisor:
    """Runs one worker, restarting and moving it. `run` it in a task, and `stop` or `kill` it at the end."""

    def __init__(
        self,
        spec: WorkerSpec,
        make_slot: Callable[[], ActorSlot],
        settings: RestartSettings,
        emit: Callable[[FleetEvent], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self._slot = make_slot()
        self._backoff = RestartBackoff(spec.name, settings, self._report)
        self._emit = emit
        self._clock = clock
        self._is_running = False
        self._stop_requested = asyncio.Event()

    async def run(self) -> None:
        """Runs until `stop` or `kill`. Emits Added at once, without an address until there is one."""
        self._emit(Added(self.spec.name, "", self.spec.model.names, is_supervised=True))
        self._report(ProcessState.PLACING, f"waits for {self._slot.needs}")
        try:
            with contextlib.suppress(StopRequested):
                while True:
                    await self._run_process()
        finally:
            await self._slot.leave()
            self._emit(Removed(self.spec.name, "was stopped"))

    async def restart(self, drain_seconds: float) -> None:
        """Ends the process; the next one starts at once."""
        self._backoff.restart_now()
        await self._end_process(drain_seconds)

    async def stop(self, drain_seconds: float) -> None:
        """Drains the worker and ends `run`."""
        self._report(ProcessState.STOPPED, "is being stopped")
        self._backoff.skip_wait()
        await self._end_process(drain_seconds)
        self._stop_requested.set()

    def kill(self) -> None:
        """Ends `run` at once, and the worker with it."""
        self._stop_requested.set()

    async def _end_process(self, drain_seconds: float) -> None:
        if not self._is_running:
            return
        timeout = drain_seconds + STOP_GRACE_SECONDS
        # A hung node never answers.
        with contextlib.suppress(ActorLost, TimeoutError):
            async with asyncio.timeout(timeout + STOP_GRACE_SECONDS):
                await self._slot.stop(timeout)

    async def _run_process(self) -> None:
        self._backoff.begin()
        try:
            placed = await self._unless_stopped(self._slot.start(self.spec))
            start = self._clock()
            self._started(placed)
            end = await self._unless_stopped(self._slot.ended())
        except ActorLost as loss:
            await self._after_loss(str(loss))
        except StopRequested:
            raise
        except Exception as error:
            await self._unless_stopped(self._backoff.after_failed_launch(error))
        else:
            await self._unless_stopped(self._backoff.after_exit(end, self._clock() - start))
        finally:
            self._is_running = False

    def _started(self, placed: Placed) -> None:
        self._is_running = True
        logger.info("worker %s runs on node %s at %s", self.spec.name, placed.node, placed.address)
        # A new process has a new address: this event replaces the worker.
        restarts, deaths = self._backoff.restarts, self._backoff.deaths
        name, models = self.spec.name, self.spec.model.names
        self._emit(Added(name, placed.address, models, restarts=restarts, is_supervised=True, deaths=deaths))

    async def _after_loss(self, reason: str) -> None:
        # While no node has room, Ray fails the waiting call now and then: that is no loss.
        if self._is_running:
            self._backoff.restarts += 1
            logger.warning("worker %s lost its node, waits for %s: %s", self.spec.name, self._slot.needs, reason)
            self._report(ProcessState.PLACING, f"waits for {self._slot.needs}; its last node is gone")
        await self._unless_stopped(asyncio.sleep(LOST_PAUSE_SECONDS))

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits the work. Raises StopRequested, and cancels the work, when the supervisor is stopped first."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop_requested.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                raise StopRequested
            return task.result()
        finally:
            for waiting in (task, stop):
                waiting.cancel()
            await asyncio.wait({task, stop})

    def _report(self, state: ProcessState, reason: str = "", delay_seconds: float | None = None) -> None:
        backoff = self._backoff
        self._emit(Changed(self.spec.name, state, reason, 0, backoff.restarts, delay_seconds, backoff.deaths))


class ActorSupervisors:
    """All supervisors of one driver, and the commands to them. `abort` must be awaited at the end."""

    def __init__(
        self, make_slot: Callable[[], ActorSlot], settings: RestartSettings, emit: Callable[[FleetEvent], None]
    ) -> None:
        self._make_slot = make_slot
        self._settings = settings
        self._emit = emit
        self._supervisors: dict[str, tuple[ActorSupervisor, asyncio.Task[None]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.is_closing = False
        """True once Close has come; no command follows it."""

    def execute(self, command: DriverCommand) -> None:
        """Begins to execute a command; events report its outcome."""
        match command:
            case Start():
                self._start(command)
            case Restart(name, seconds) if name in self._supervisors:
                self._spawn(self._supervisors[name][0].restart(seconds))
            case Retire(name, seconds) if name in self._supervisors:
                self._spawn(self._retire(name, seconds))
            case Retire(name):
                # The balancer waits for the answer.
                self._emit(Removed(name, "was not running"))
            case Close(seconds):
                self.is_closing = True
                for name in tuple(self._supervisors):
                    self._spawn(self._retire(name, seconds))

    async def closed(self) -> None:
        """Waits, after Close, until no worker runs on the cluster."""
        while self.is_closing and self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def abort(self) -> None:
        """Ends all workers now."""
        for task in tuple(self._tasks):
            task.cancel()
        for supervisor, _ in self._supervisors.values():
            supervisor.kill()
        ending = [*self._tasks, *(task for _, task in self._supervisors.values())]
        await asyncio.gather(*ending, return_exceptions=True)

    def _start(self, command: Start) -> None:
        spec = command.worker_spec()
        if spec.name in self._supervisors and not self._supervisors[spec.name][1].done():
            logger.warning("worker %s runs already; it is not started twice", spec.name)
            return
        settings = replace(self._settings, fail_fast=command.fail_fast)
        supervisor = ActorSupervisor(spec, self._make_slot, settings, self._emit)
        task = asyncio.create_task(supervisor.run(), name=f"supervisor of {spec.name}")
        task.add_done_callback(self._done)
        self._supervisors[spec.name] = (supervisor, task)

    async def _retire(self, name: str, drain_seconds: float) -> None:
        supervisor, task = self._supervisors[name]
        await supervisor.stop(drain_seconds)
        await task
        # The name may have been used again as soon as Removed was emitted.
        if self._supervisors.get(name) == (supervisor, task):
            del self._supervisors[name]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("unhandled exception in %s", task.get_name(), exc_info=error)
