"""The set of workers: follows the fleet sources, runs the tasks of each worker, returns snapshots for placement."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from vllama_balancer.change_counter import ChangeCounter
from vllama_balancer.fleet.events import Added, Changed, ProcessState, Removed
from vllama_balancer.routing.snapshot import Snapshot
from vllama_balancer.workers.attempt_errors import FailureKind
from vllama_balancer.workers.breaker import HealthSettings
from vllama_balancer.workers.channel import missing_channel, open_channel
from vllama_balancer.workers.health_checker import HealthChecker
from vllama_balancer.workers.watch import Watcher
from vllama_balancer.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence

    from vllama_balancer.fleet.events import FleetEvent
    from vllama_balancer.workers.channel import Channel

logger = logging.getLogger(__name__)

RECOVERY_SECONDS = 1.0
"""Pause after an unexpected error in a worker's task, or in an event of a fleet source."""
TRIES_OF_AN_EVENT = 5
CLOSE_SECONDS = 5.0
"""How long the tasks and the connection of a worker may take to end."""


class Pool:
    """Owns the workers, their connections and their tasks. Close it at the end."""

    def __init__(
        self,
        health: HealthSettings | None = None,
        open_channel: Callable[[str], Channel] = open_channel,
        clock: Callable[[], float] = time.monotonic,
        close_seconds: float = CLOSE_SECONDS,
        forget: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`open_channel` opens the connection to an address; it may raise OSError or ValueError.

        `forget` is called with the name of a worker that has gone, once its last calls have ended.
        """
        self._health = health or HealthSettings()
        self._open_channel = open_channel
        self._clock = clock
        self._close_seconds = close_seconds
        self._forget = forget
        self._workers: dict[str, Worker] = {}
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._claims: dict[tuple[object, str], str] = {}
        """Source and name of each worker that was added, and the name under which the pool has it."""
        self._closing: set[asyncio.Task[None]] = set()
        # Cached until the next change: every request reads it.
        self._available: dict[str, list[Worker]] = {}
        self._available_at = 0
        self.changes = ChangeCounter()
        """Incremented when a worker is added or removed, or its availability changes."""

    # -- queries ---------------------------------------------------------------------------

    def now(self) -> float:
        """Returns the time on the workers' clock."""
        return self._clock()

    def workers(self) -> tuple[Worker, ...]:
        """Returns the workers, sorted by name."""
        return tuple(self._workers[name] for name in sorted(self._workers))

    def find(self, name: str) -> Worker | None:
        return self._workers.get(name)

    def serving(self, key: str) -> list[Worker]:
        """Returns the workers of a model, available or not."""
        return [worker for worker in self._workers.values() if key in worker.keys]

    def is_served(self, key: str) -> bool:
        """Returns whether any worker of the model is available, with or without room."""
        return bool(self.available(key))

    def available(self, key: str) -> Sequence[Worker]:
        """Returns the workers of the model that may take requests, with or without room."""
        if self._available_at != self.changes.version:
            self._available_at = self.changes.version
            self._available.clear()
        if key not in self._available:
            self._available[key] = [worker for worker in self.serving(key) if not worker.unavailable]
        return self._available[key]

    def too_short_for(self, key: str, tokens: int) -> set[str]:
        """Returns the boot ids of the model's workers whose context is shorter; none if no available one is longer.

        Workers of one model differ where their cards do.
        """
        workers = self.available(key)
        short = {worker.incarnation.boot_id for worker in workers if 0 < worker.context_tokens < tokens}
        has_longer = any(worker.context_tokens >= tokens for worker in workers)
        return short if has_longer else set()

    def has_room(self, key: str) -> bool:
        """Returns whether a worker of the model has a stream to spare."""
        return any(worker.candidate() is not None for worker in self.available(key))

    def snapshot(self, key: str, excluded: Container[str] = ()) -> Snapshot:
        """Returns the workers that may take a request for the model now.

        Boot ids in `excluded` are left out while any other worker of the model is available, with or without room.
        """
        available: Sequence[Worker] = self.available(key)
        if excluded:
            available = [worker for worker in available if worker.incarnation.boot_id not in excluded] or available
        # Bypasses `Worker.candidate`: this runs for every worker in every decision.
        candidates = [worker.incarnation.load.candidate(worker.name) for worker in available]
        return Snapshot(self._clock(), tuple(filter(None, candidates)))

    def is_hopeless(self, key: str) -> bool:
        """Returns whether no worker of the model serves or is about to.

        A worker that has not announced its models yet may serve this one.
        """
        workers = self._workers.values()
        return not any(worker.may_come_back and (not worker.keys or key in worker.keys) for worker in workers)

    def is_last(self, worker: Worker) -> bool:
        """Returns whether no other worker of any of its models is available."""
        others = [other for other in self._workers.values() if other is not worker and not other.unavailable]
        return not any(other.keys & worker.keys for other in others)

    # -- fleet events ----------------------------------------------------------------------

    async def follow(self, events: AsyncIterator[FleetEvent], pause_seconds: float = RECOVERY_SECONDS) -> None:
        """Applies the events of a fleet source until it ends. Several sources may be followed at once.

        An event that cannot be applied is tried again a few times and then left out.
        """
        source = object()
        async for event in events:
            for _ in range(TRIES_OF_AN_EVENT):
                try:
                    self.apply(event, source)
                    break
                except Exception:
                    logger.exception("unhandled exception in an event of the fleet: %r", event)
                    await asyncio.sleep(pause_seconds)

    def apply(self, event: FleetEvent, source: object = None) -> None:
        """Applies one event of a source. A worker at an address stays until every source of it has removed it."""
        claim = (source, event.name)
        if isinstance(event, Added):
            self._release(claim, "was replaced")
            self._claim(claim, event)
        elif isinstance(event, Removed):
            self._release(claim, event.reason or "was removed")
        elif (worker := self._workers.get(self._claims.get(claim, event.name))) is not None:
            worker.process_changed(event)
        self.changes.increment()

    async def close(self) -> None:
        """Ends every task and connection; calls that still run are cut."""
        for name in tuple(self._workers):
            self._remove(name, "the balancer ends")
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _claim(self, claim: tuple[object, str], event: Added) -> None:
        shared = next((w for w in self._workers.values() if event.address and w.address == event.address), None)
        if shared is not None:
            logger.info("worker %s is the one that is known as %s", event.name, shared.name)
        else:
            self._remove(event.name, "was replaced")
            self._add(event)
        self._claims[claim] = shared.name if shared is not None else event.name

    def _release(self, claim: tuple[object, str], reason: str) -> None:
        name = self._claims.pop(claim, None)
        if name is not None and name not in self._claims.values():
            self._remove(name, reason)

    def _add(self, event: Added) -> None:
        channel, fault = self._open(event.address)
        if fault:
            logger.warning("worker %s: %s; it is tried again", event.name, fault)
        worker = Worker(event, channel or missing_channel(), self._health, self.changes, self._clock)
        self._workers[event.name] = worker
        self._tasks[event.name] = []
        if not event.address:  # it runs nowhere yet
            return
        checker = HealthChecker(worker, self._health, self._clock, self.is_last)
        self._tasks[event.name] = [
            asyncio.create_task(_keep_running(Watcher(worker, self._reopen).run), name=f"watch {event.name}"),
            asyncio.create_task(_keep_running(checker.run), name=f"check {event.name}"),
        ]

    def _remove(self, name: str, reason: str) -> None:
        worker = self._workers.pop(name, None)
        if worker is None:
            return
        worker.process_changed(Changed(name, ProcessState.STOPPED, reason))
        worker.incarnation.abandon_leases(f"worker {name} {reason}", FailureKind.REFUSED)
        # The connection closes in a task of its own: the readers of abandoned calls find it still open.
        self._close_later(worker.name, worker.channel, self._tasks.pop(name, []))

    def _reopen(self, worker: Worker) -> str:
        """Replaces an outdated channel once nothing runs on it; returns why that cannot be done, or nothing."""
        if not worker.channel.is_outdated() or worker.incarnation.leases:
            return ""
        channel, fault = self._open(worker.address)
        if channel is None:
            if fault not in worker.unavailable:
                logger.warning("worker %s: %s; it is tried again", worker.name, fault)
            return fault
        before, worker.channel = worker.channel, channel
        self._close_later(worker.name, before, [])
        return ""

    def _open(self, address: str) -> tuple[Channel | None, str]:
        """Returns a channel, or None and why there is none; a worker without an address runs nowhere yet."""
        if not address:
            return None, ""
        try:
            return self._open_channel(address), ""
        except (OSError, ValueError) as error:
            return None, f"its channel cannot be opened: {error}"

    def _close_later(self, name: str, channel: Channel, tasks: list[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(self._close(name, channel, tasks), name=f"close {name}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, name: str, channel: Channel, tasks: list[asyncio.Task[None]]) -> None:
        """Ends a worker's tasks and closes its connection, in a bounded time."""
        for task in tasks:
            task.cancel()
        try:
            async with asyncio.timeout(self._close_seconds):
                if tasks:
                    await asyncio.wait(tasks)
                await channel.close()
        except TimeoutError:
            logger.warning("the connection to worker %s did not close within %g s", name, self._close_seconds)
        if name not in self._workers:
            self._forget(name)


async def _keep_running(run: Callable[[], Awaitable[None]]) -> None:
    """Restarts a worker's task after an unexpected error: without its tasks a worker would be lost for good."""
    while True:
        try:
            await run()
        except Exception:
            logger.exception("unhandled exception in a worker's task; restarting the task")
            await asyncio.sleep(RECOVERY_SECONDS)
