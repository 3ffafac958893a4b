"""The set of workers: follows the fleet source, keeps every worker watched, hands out snapshots."""

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
from vllama_balancer.workers.channel import open_channel
from vllama_balancer.workers.health_checker import HealthChecker
from vllama_balancer.workers.watch import Watcher
from vllama_balancer.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Container, Sequence

    from vllama_balancer.fleet.events import FleetEvent
    from vllama_balancer.workers.channel import Channel

logger = logging.getLogger(__name__)

NOWHERE = "unix:nowhere"
"""Target of the channel of a worker that has no place yet; nobody calls it."""
RECOVERY_SECONDS = 1.0
"""Pause after an unforeseen error in a task that looks after a worker."""


class Pool:
    """Owns the workers, their connections and the tasks that look after them. Close it at the end."""

    def __init__(
        self,
        health: HealthSettings | None = None,
        open_channel: Callable[[str], Channel] = open_channel,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts empty; `open_channel` makes the connection to an address."""
        self._health = health or HealthSettings()
        self._open_channel = open_channel
        self._clock = clock
        self._workers: dict[str, Worker] = {}
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        # Cached until the next change: this is asked for every request.
        self._available: dict[str, list[Worker]] = {}
        self._available_at = 0
        self.changes = ChangeCounter()
        """Grows when a worker comes, goes, or becomes available or not."""

    # -- what it is asked ------------------------------------------------------------------

    def workers(self) -> tuple[Worker, ...]:
        """Lists the workers by name."""
        return tuple(self._workers[name] for name in sorted(self._workers))

    def find(self, name: str) -> Worker | None:
        """Finds a worker by name."""
        return self._workers.get(name)

    def serving(self, key: str) -> list[Worker]:
        """Lists the workers of a model, available or not."""
        return [worker for worker in self._workers.values() if key in worker.keys]

    def is_served(self, key: str) -> bool:
        """Tells whether any worker of the model is available, with or without room."""
        return bool(self.available(key))

    def available(self, key: str) -> Sequence[Worker]:
        """Lists the workers of the model that may take requests, with or without room."""
        if self._available_at != self.changes.version:
            self._available_at = self.changes.version
            self._available.clear()
        if key not in self._available:
            self._available[key] = [worker for worker in self.serving(key) if not worker.unavailable]
        return self._available[key]

    def has_room(self, key: str) -> bool:
        """Tells whether a worker of the model has a stream to spare."""
        return any(worker.candidate() is not None for worker in self.available(key))

    def snapshot(self, key: str, excluded: Container[str] = ()) -> Snapshot:
        """Pictures the workers that may take a request for the model now.

        Lives (boot ids) in `excluded` are left out as long as any other worker of the model is
        available, with or without room.
        """
        available: Sequence[Worker] = self.available(key)
        if excluded:
            available = [worker for worker in available if worker.incarnation.boot_id not in excluded] or available
        # Past `Worker.candidate`: this is done for every worker in every decision.
        shown = [worker.incarnation.load.candidate(worker.name) for worker in available]
        return Snapshot(self._clock(), tuple(filter(None, shown)))

    def is_hopeless(self, key: str) -> bool:
        """Tells whether no worker of the model serves or is about to.

        A worker that has not told its models yet may turn out to serve this one.
        """
        workers = self._workers.values()
        return not any(worker.may_come_back and (not worker.keys or key in worker.keys) for worker in workers)

    def is_last(self, worker: Worker) -> bool:
        """Tells whether no other worker of any of its models is available."""
        others = [other for other in self._workers.values() if other is not worker and not other.unavailable]
        return not any(other.keys & worker.keys for other in others)

    # -- what it is told -------------------------------------------------------------------

    async def follow(self, events: AsyncIterator[FleetEvent]) -> None:
        """Takes in what a fleet source says until it ends. Several sources may be followed at once."""
        async for event in events:
            self.apply(event)

    def apply(self, event: FleetEvent) -> None:
        """Takes in one event."""
        if isinstance(event, Added):
            self._remove(event.name, "was replaced")
            self._add(event)
        elif isinstance(event, Removed):
            self._remove(event.name, event.reason or "was removed")
        elif event.name in self._workers:
            self._workers[event.name].process_changed(event)
        self.changes.increment()

    async def close(self) -> None:
        """Ends every task and connection; calls that still run are cut."""
        for name in tuple(self._workers):
            self._remove(name, "the balancer ends")
        await asyncio.gather(*self._closing)

    def _add(self, event: Added) -> None:
        worker = Worker(event, self._open_channel(event.address or NOWHERE), self._health, self.changes, self._clock)
        self._workers[event.name] = worker
        self._tasks[event.name] = []
        if not event.address:  # placed nowhere yet
            return
        caretaker = HealthChecker(worker, self._health, self._clock, self.is_last)
        self._tasks[event.name] = [
            asyncio.create_task(_keep_running(Watcher(worker).run), name=f"watch {event.name}"),
            asyncio.create_task(_keep_running(caretaker.run), name=f"care {event.name}"),
        ]

    def _remove(self, name: str, reason: str) -> None:
        worker = self._workers.pop(name, None)
        if worker is None:
            return
        worker.process_changed(Changed(name, ProcessState.STOPPED, reason))
        for lease in tuple(worker.incarnation.leases):
            lease.abandon(f"worker {name} {reason}", FailureKind.REFUSED)
        # The connection closes a moment later: whoever reads a call that was given up finds it open.
        task = asyncio.create_task(_close(worker, self._tasks.pop(name)), name=f"close {name}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _keep_running(run: Callable[[], Awaitable[None]]) -> None:
    """Begins again after what nobody foresaw: a worker that is not looked after any more would be lost for good."""
    while True:
        try:
            await run()
        except Exception:
            logger.exception("looking after a worker failed; going on")
            await asyncio.sleep(RECOVERY_SECONDS)


async def _close(worker: Worker, tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await worker.channel.close()
