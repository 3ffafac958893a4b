"""One generation of a shared call as its reader sees it: iterated and cancelled like a call of its own.

What comes while the reader is busy gathers here, and deltas merge when they are taken, so a slow
client gets fewer and larger ones. A generation can leave no more here than its own output.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_protos.v1 import generation_pb2


class RelayedGeneration:
    """An asynchronous iterator of a generation's events; one task reads it.

    Raises the AioRpcError that ends it once everything that came before has been read, and
    CancelledError at once after `cancel`.
    """

    __slots__ = (
        "_deadline",
        "_error",
        "_events",
        "_is_cancelled",
        "_on_cancel",
        "_waiter",
        "has_output",
        "is_complete",
    )

    def __init__(self, on_cancel: Callable[[], None], timeout_seconds: float | None) -> None:
        """Calls `on_cancel` when it is ended from this side."""
        self._on_cancel = on_cancel
        self._events: deque[generation_pb2.GenerateResponse] = deque()
        self._error: grpc.aio.AioRpcError | None = None
        self._is_cancelled = False
        self.is_complete = False
        """Whether its last event has come."""
        self.has_output = False
        """Whether its first token has come."""
        self._waiter: asyncio.Future[None] | None = None
        loop = asyncio.get_running_loop()
        self._deadline = None if timeout_seconds is None else loop.call_later(timeout_seconds, self._expire)

    def __aiter__(self) -> RelayedGeneration:
        """Reads itself."""
        return self

    async def __anext__(self) -> generation_pb2.GenerateResponse:
        """Waits for the next event, or takes all deltas that wait as one."""
        while not self._is_cancelled:
            if self._events:
                return self._next()
            if self._error is not None:
                raise self._error
            if self.is_complete:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        raise asyncio.CancelledError

    def cancel(self) -> bool:
        """Ends it from this side; False when it has ended already."""
        if self._is_cancelled or self.is_complete or self._error is not None:
            return False
        self._is_cancelled = True
        self._events.clear()
        self._end()
        self._on_cancel()
        return True

    # -- what the shared call tells --------------------------------------------------------

    def add(self, response: generation_pb2.GenerateResponse) -> None:
        """Takes in an event."""
        self._events.append(response)
        kind = response.WhichOneof("event")
        if kind == "delta":
            self.has_output = True
        elif kind == "finished":
            self.is_complete = True
            self._end()
            return
        self._wake()

    def fail(self, error: grpc.aio.AioRpcError) -> None:
        """Takes in the error that ends it."""
        self._error = error
        self._end()

    # --------------------------------------------------------------------------------------

    def _expire(self) -> None:
        self.fail(grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, details="Deadline Exceeded"))
        self._on_cancel()

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _next(self) -> generation_pb2.GenerateResponse:
        first = self._events.popleft()
        if self._events and first.HasField("delta"):
            self._merge_into(first.delta)
        return first

    def _merge_into(self, delta: generation_pb2.Delta) -> None:
        texts, thoughts = [delta.text], [delta.thinking]
        while self._events and self._events[0].HasField("delta"):
            following = self._events[0].delta
            if not _may_join(following, has_text=any(texts), has_calls=bool(delta.tool_calls)):
                break
            texts.append(following.text)
            thoughts.append(following.thinking)
            delta.token_ids.extend(following.token_ids)
            delta.logprobs.extend(following.logprobs)
            self._events.popleft()
        delta.text, delta.thinking = "".join(texts), "".join(thoughts)


def _may_join(following: generation_pb2.Delta, *, has_text: bool, has_calls: bool) -> bool:
    """Tells whether a delta says the same when it is merged into the one before.

    A reader takes a delta's reasoning before its text and its calls last: neither may move up.
    """
    return not (has_calls or following.tool_calls) and not (following.thinking and has_text)
