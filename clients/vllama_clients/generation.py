"""One running generation of the asyncio client: an iterator of events that cancels cleanly."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, cast

import grpc

from vllama_clients import event_wire
from vllama_clients.errors import Cancelled, IncompleteStream, NotUsable, error_of_call
from vllama_clients.events import Completion, Delta, Event, Finished, completion_of
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Generation:
    """Yields `Started`, `Delta`s, `Finished`; leaving its `async with`, or `cancel`, ends the call on the server.

    Cancelling the task that reads it ends the call as well. Read by one task at a time. Errors are
    those of errors.py; after one, or after `Finished`, the iterator is exhausted.
    """

    def __init__(
        self, call: grpc.aio.UnaryStreamCall[generation_pb2.GenerateRequest, generation_pb2.GenerateResponse]
    ) -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._finished = False
        self._ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._ended:
            event = event_wire.event(await self._read())
            if event is not None:
                self._finished = self._finished or isinstance(event, Finished)
                return event
        raise StopAsyncIteration

    async def texts(self) -> AsyncIterator[str]:
        """Yields the pieces of the answer, without the reasoning, as they come."""
        async for event in self:
            if isinstance(event, Delta) and event.text:
                yield event.text

    async def collect(self) -> Completion:
        """Reads to the end and adds up. Cancels the call when that fails."""
        async with self:
            return completion_of([event async for event in self])

    def cancel(self) -> None:
        """Ends the call; the server frees its KV blocks within a second. No effect after the end."""
        self._call.cancel()

    async def _read(self) -> generation_pb2.GenerateResponse:
        """Reads one message; an empty one, which is no event, at the end."""
        if asyncio.get_running_loop() is not self._loop:
            raise NotUsable("The generation belongs to another event loop; read it in the loop that began it.")
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            self._ended = True
            raise error_of_call(error) from None
        except asyncio.CancelledError:
            self._ended = True
            # grpc.aio raises it too when only the call was cancelled, by either side: the task that reads goes on then,
            # and gets an ordinary error.
            if _task_is_being_cancelled():
                self.cancel()
                raise
            raise Cancelled("The call was cancelled.", code=grpc.StatusCode.CANCELLED) from None
        if message is not grpc.aio.EOF:
            return cast("generation_pb2.GenerateResponse", message)
        self._ended = True
        if not self._finished:
            raise IncompleteStream("The stream ended before the generation was complete.")
        return generation_pb2.GenerateResponse()


def _task_is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
