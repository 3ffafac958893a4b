"""The door to the engine: counts the calls inside, bounds them, and empties the room.

The engine itself keeps `max_streams` in its batch and lets the others wait; the gate bounds how
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


class Gate:
    """Admits calls while the worker is ready and has room."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._capacity = 0
        self._places_taken = 0
        self._inside: dict[asyncio.Task[object], str] = {}
        self._ids: set[str] = set()
        self._evicted: dict[asyncio.Task[object], WorkerError] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def inside(self) -> int:
        """Calls that are inside now."""
        return len(self._inside)

    def open(self, max_streams: int, max_queue: int) -> None:
        """Sets how many places there are: those in the engine's batch and those of calls that wait for it."""
        self._capacity = max_streams + max_queue

    @contextmanager
    def enter(self, request_id: str, *, takes_place: bool = True) -> Iterator[str]:
        """Lets the current task in until the block ends, and gives the id by which the engine shall know the call.

        A call that computes nothing on the device takes no place and is let in even when all are taken.
        That id is the request's own unless a call of that id is inside already: engines confuse two
        live requests of one id. Raises NotReady, Draining, EngineDead or EngineBusy at the door, and
        the error given to `evict` when the call is thrown out.
        """
        refusal = self._lifecycle.refusal()
        if refusal is not None:
            raise refusal
        if takes_place and self._places_taken >= self._capacity:
            raise EngineBusy(f"the worker is full with {self._places_taken} requests; try again or use another worker.")
        task = asyncio.current_task()
        assert task is not None, "a call is served by a task"
        engine_id = self._unique(request_id)
        self._inside[task] = engine_id
        self._ids.add(engine_id)
        self._places_taken += takes_place
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
            self._places_taken -= takes_place
            self._leave(task, engine_id)

    def evict(self, error: WorkerError) -> int:
        """Ends every call inside with an error; returns how many there were."""
        tasks = [task for task in self._inside if task not in self._evicted]
        for task in tasks:
            self._evicted[task] = error
            task.cancel()
        return len(tasks)

    async def emptied(self) -> None:
        """Waits until no call is inside."""
        await self._empty.wait()

    def _unique(self, request_id: str) -> str:
        if request_id not in self._ids:
            return request_id
        return next(
            name for count in range(2, len(self._ids) + 3) if (name := f"{request_id}#{count}") not in self._ids
        )

    def _leave(self, task: asyncio.Task[object], engine_id: str) -> None:
        del self._inside[task]
        self._ids.discard(engine_id)
        self._evicted.pop(task, None)
        if not self._inside:
            self._empty.set()
