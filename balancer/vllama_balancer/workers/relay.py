"""The relay: many generations over one Relay call to a worker.

A gRPC message for each token of each stream costs the balancer more than everything else that it does for the token.
A worker therefore sends the tokens of all its streams in one message. Each generation still behaves like a call of its
own: it is iterated, cancelled, and fails with the error that such a call would have raised.

    Relay -> RelayConnection (one call; replaced when it breaks) -> RelayedGeneration (one stream)
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.rpc import status_pb2  # type: ignore[import-untyped]

from vllama_protos.durations import set_seconds
from vllama_protos.errors import DETAILS_TRAILER
from vllama_protos.v1 import generation_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from vllama_protos.v1 import worker_pb2_grpc

StreamEvent: TypeAlias = tuple[str | None, generation_pb2.GenerateResponse]
"""A response and its kind, "started", "delta" or "finished": read once for each message and passed along."""

_READY = worker_pb2.RelayRequest(ready=worker_pb2.RelayReady())
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Relay:
    """The shared call of a channel, opened when it is needed and replaced after it broke."""

    def __init__(self, stub: worker_pb2_grpc.WorkerAsyncStub) -> None:
        self._stub = stub
        self._connection: RelayConnection | None = None

    def begin(self, request: generation_pb2.GenerateRequest, timeout_seconds: float | None) -> RelayedGeneration:
        """Begins a generation. Must run on the event loop that serves."""
        if self._connection is None or self._connection.is_over:
            self._connection = RelayConnection(self._stub)
        return self._connection.begin(request, timeout_seconds)

    async def close(self) -> None:
        """Ends the call, and with it every generation on it."""
        if self._connection is not None:
            await self._connection.close()


class RelayConnection:
    """One Relay call, from its opening to its end."""

    def __init__(self, stub: worker_pb2_grpc.WorkerAsyncStub) -> None:
        self._outgoing: deque[worker_pb2.RelayRequest] = deque()
        self._has_outgoing = asyncio.Event()
        self._numbers = itertools.count(1)
        self._generations: dict[int, RelayedGeneration] = {}
        self.is_over = False
        """Whether the call has ended, so that no generation can begin on it."""
        self._call = stub.Relay(self._messages())
        self._reading = asyncio.create_task(self._read(), name="read relayed generations")

    def begin(self, request: generation_pb2.GenerateRequest, timeout_seconds: float | None) -> RelayedGeneration:
        """Begins a generation; the request is copied."""
        number = next(self._numbers)
        message = worker_pb2.RelayRequest(stream=number)
        message.start.request.CopyFrom(request)
        if timeout_seconds is not None:
            set_seconds(message.start.timeout, timeout_seconds)
        generation = RelayedGeneration(lambda: self._cancel(number), timeout_seconds)
        self._generations[number] = generation
        self._send(message)
        return generation

    async def close(self) -> None:
        """Ends the call."""
        self._call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def _send(self, message: worker_pb2.RelayRequest) -> None:
        self._outgoing.append(message)
        self._has_outgoing.set()

    async def _messages(self) -> AsyncIterator[worker_pb2.RelayRequest]:
        while True:
            await self._has_outgoing.wait()
            if self.is_over:
                return
            # Cleared before the messages are yielded: the call may end while one of them is being written.
            self._has_outgoing.clear()
            while self._outgoing:
                yield self._outgoing.popleft()

    def _cancel(self, number: int) -> None:
        """Removes a generation that its reader has ended, and sends the cancellation to the worker."""
        if self._generations.pop(number, None) is not None and not self.is_over:
            self._send(worker_pb2.RelayRequest(stream=number, cancel=worker_pb2.RelayCancel()))

    async def _read(self) -> None:
        """Distributes events until the call ends; then every generation that is left fails."""
        error = _error(grpc.StatusCode.UNAVAILABLE, "the worker has ended the call that carried its generations")
        try:
            async for message in self._call:
                self._distribute(message.events)
                if not message.needs_no_ready:
                    self._send(_READY)
        except grpc.aio.AioRpcError as broken:
            error = _loss(broken)
        except asyncio.CancelledError:
            # Raised as well when the channel was closed from this side.
            error = _error(grpc.StatusCode.CANCELLED, "the connection to the worker was closed")
            raise
        finally:
            self.is_over = True
            self._has_outgoing.set()
            self._call.cancel()
            generations = tuple(self._generations.values())
            self._generations.clear()
            for generation in generations:
                generation.fail(error)

    def _distribute(self, events: Iterable[worker_pb2.RelayEvent]) -> None:
        """Passes each event to its generation; those that wait for their first token go first."""
        later = []
        for event in events:
            generation = self._generations.get(event.stream)
            if generation is None:
                # Cancelled in the meantime.
                continue
            if generation.has_output:
                later.append((generation, event))
            else:
                self._pass(generation, event)
        for generation, event in later:
            self._pass(generation, event)

    def _pass(self, generation: RelayedGeneration, event: worker_pb2.RelayEvent) -> None:
        if event.HasField("response"):
            generation.add(event.response)
            if generation.is_complete:
                del self._generations[event.stream]
        else:
            del self._generations[event.stream]
            generation.fail(_error_of(event.status))


class RelayedGeneration:
    """An asynchronous iterator of a generation's events, read by one task.

    Events that come while the reader is busy are queued, and queued deltas are merged, so a slow client gets fewer and
    larger ones. The queue cannot exceed the generation's own output. Raises the AioRpcError that ends it after
    everything before it has been read, and CancelledError at once after `cancel`.
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
        """`on_cancel` is called when it is ended from this side."""
        self._on_cancel = on_cancel
        self._events: deque[StreamEvent] = deque()
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
        return self

    async def __anext__(self) -> StreamEvent:
        """Waits for the next event; returns all queued deltas as one."""
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

    # -- called by the connection ----------------------------------------------------------

    def add(self, response: generation_pb2.GenerateResponse) -> None:
        """Queues an event."""
        kind = response.WhichOneof("event")
        self._events.append((kind, response))
        if kind == "delta":
            self.has_output = True
        elif kind == "finished":
            self.is_complete = True
            self._end()
            return
        self._wake()

    def fail(self, error: grpc.aio.AioRpcError) -> None:
        """Ends it with an error."""
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

    def _next(self) -> StreamEvent:
        first = self._events.popleft()
        if self._events and first[0] == "delta":
            self._merge_into(first[1].delta)
        return first

    def _merge_into(self, delta: generation_pb2.Delta) -> None:
        texts, thinking = [delta.text], [delta.thinking]
        while self._events and self._events[0][0] == "delta":
            following = self._events[0][1].delta
            if not _may_join(following, has_text=any(texts), has_calls=bool(delta.tool_calls)):
                break
            texts.append(following.text)
            thinking.append(following.thinking)
            delta.token_ids.extend(following.token_ids)
            delta.logprobs.extend(following.logprobs)
            self._events.popleft()
        delta.text, delta.thinking = "".join(texts), "".join(thinking)


def _may_join(following: generation_pb2.Delta, *, has_text: bool, has_calls: bool) -> bool:
    """Returns whether merging a delta into the one before keeps the meaning.

    A reader takes a delta's reasoning before its text and its calls last: neither may move forward.
    """
    return not (has_calls or following.tool_calls) and not (following.thinking and has_text)


def _error_of(encoded: bytes) -> grpc.aio.AioRpcError:
    """Returns the error that a call of its own would have raised."""
    status = status_pb2.Status.FromString(encoded)
    trailers = grpc.aio.Metadata((DETAILS_TRAILER, encoded))
    return _error(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, trailers)


def _loss(broken: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
    """Returns the error of every generation on a call that broke: none is the cause, and others may take over.

    A message that meets a dying connection ends the call as INTERNAL instead of UNAVAILABLE.
    """
    if broken.code() is grpc.StatusCode.UNAVAILABLE:
        return broken
    message = f"the call to the worker broke ({broken.code().name}): {broken.details()}"
    return _error(grpc.StatusCode.UNAVAILABLE, message)


def _error(code: grpc.StatusCode, message: str, trailers: Any = None) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers or grpc.aio.Metadata(), details=message)
