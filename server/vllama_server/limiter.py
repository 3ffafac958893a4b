"""The door to the engine: counts the calls inside, bounds them, and empties the room.

The engine itself keeps `max_streams` in its batch and lets the others wait; the limiter bounds how
many may wait, refuses calls that the state of the worker does not allow, and knows every call
that is inside, so that a drain can wait for them and a dead engine can end them.
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
    """Admits calls while the worker is ready and has room."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._capacity = 0
        self._capacity_used = 0
        self._calls: dict[asyncio.Task[object], str] = {}
        self._ids: set[str] = set()
        self._evicted: dict[asyncio.Task[object], WorkerError] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def in_flight(self) -> int:
        """Calls that are inside now."""
        return len(self._calls)

    def set_capacity(self, max_streams: int, max_queue: int) -> None:
        """Sets how many places there are: those in the engine's batch and those of calls that wait for it."""
        self._capacity = max_streams + max_queue

    @contextmanager
    def admit(self, request_id: str, *, uses_capacity: bool = True) -> Iterator[str]:
        """Lets the current task in until the block ends, and gives the id by which the engine shall know the call.

        A call that computes nothing on the device takes no place and is let in even when all are taken.
        That id is the request's own unless a call of that id is inside already: engines confuse two
        live requests of one id. Raises NotReady, Draining, EngineDead or EngineBusy at the door, and
        the error given to `evict` when the call is thrown out.
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
        self._empty.clear()
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
        """Ends every call inside with an error; returns how many there were."""
        tasks = [task for task in self._calls if task not in self._evicted]
        for task in tasks:
            self._evicted[task] = error
            task.cancel()
        return len(tasks)

    async def drained(self) -> None:
        """Waits until no call is inside."""
        await self._empty.wait()

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
            self._empty.set()
