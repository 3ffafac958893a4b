"""Limits in-flight calls; drains and evicts them.

The engine itself keeps `max_streams` in its batch and queues the others. The limiter bounds that queue, refuses calls
that the worker's state does not allow, and keeps every call that is running, so that a drain can wait for them and a
dead engine can end them.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vllama_server.errors import EngineBusy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllama_server.errors import WorkerError
    from vllama_server.lifecycle import Lifecycle


class InFlightLimiter:
    """Admits calls while the worker is ready and has capacity."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._capacity = 0
        self._capacity_used = 0
        self._calls: dict[asyncio.Task[object], str] = {}
        self._ids: set[str] = set()
        self._evicted: dict[asyncio.Task[object], WorkerError] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Calls that are running now."""
        return len(self._calls)

    def set_capacity(self, max_streams: int, max_queue: int) -> None:
        """Allows as many calls as fit the engine's batch and its queue."""
        self._capacity = max_streams + max_queue

    @contextmanager
    def admit(self, request_id: str, *, uses_capacity: bool = True) -> Iterator[str]:
        """Admits the current task until the block ends, and yields the id of the call in the engine.

        That id is the request's own unless a call of that id is running: engines confuse two live requests of one id. A
        call that computes nothing on the device uses no capacity. Raises NotReady, Asleep, Draining, EngineDead or
        EngineBusy on entry, and the error given to `evict` when the call is evicted.
        """
        refusal = self._lifecycle.refusal()
        if refusal is not None:
            raise refusal
        if uses_capacity and self._capacity_used >= self._capacity:
            raise EngineBusy(
                f"the worker is full with {self._capacity_used} requests; try again or use another worker."
            )
        task = asyncio.current_task()
        assert task is not None, "a call is served by a task"
        engine_id = self._unique(request_id)
        self._calls[task] = engine_id
        self._ids.add(engine_id)
        self._capacity_used += uses_capacity
        self._idle.clear()
        try:
            yield engine_id
        except asyncio.CancelledError:
            error = self._evicted.get(task)
            if error is None:
                raise
            task.uncancel()
            raise error from None
        finally:
            self._capacity_used -= uses_capacity
            self._release(task, engine_id)

    def evict(self, error: WorkerError) -> int:
        """Ends every running call with an error; returns their number."""
        tasks = [task for task in self._calls if task not in self._evicted]
        for task in tasks:
            self._evicted[task] = error
            task.cancel()
        return len(tasks)

    async def drained(self) -> None:
        """Waits until no call is running."""
        await self._idle.wait()

    def _unique(self, request_id: str) -> str:
        if request_id not in self._ids:
            return request_id
        return next(
            name for count in range(2, len(self._ids) + 3) if (name := f"{request_id}#{count}") not in self._ids
        )

    def _release(self, task: asyncio.Task[object], engine_id: str) -> None:
        del self._calls[task]
        self._ids.discard(engine_id)
        self._evicted.pop(task, None)
        if not self._calls:
            self._idle.set()
