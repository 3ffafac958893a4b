"""Many generations over one call to a worker: begun and cancelled by orders, fanned out as their news comes.

A message of its own for each token of each stream costs a balancer more than everything else it
does for the token. A worker therefore sends what its engine has made for all streams in one
message, and only that message pays for the transport. Each generation still looks like a call of
its own: iterated, cancelled, and failed with the very error that such a call would have raised.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc import status_pb2  # type: ignore[import-untyped]

from vllama_balancer.workers.relayed_generation import RelayedGeneration
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from vllama_protos.v1 import generation_pb2, worker_pb2_grpc

DETAILS_TRAILER = "grpc-status-details-bin"
"""The trailer in which gRPC carries a google.rpc.Status."""
_READY = worker_pb2.RelayRequest(ready=worker_pb2.RelayReady())
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Relay:
    """The generations that share one call at a time; a call that broke is followed by another."""

    def __init__(self, stub: worker_pb2_grpc.WorkerAsyncStub) -> None:
        self._stub = stub
        self._trunk: Trunk | None = None

    def begin(self, request: generation_pb2.GenerateRequest, timeout_seconds: float | None) -> RelayedGeneration:
        """Begins a generation. Must run on the event loop that serves."""
        if self._trunk is None or self._trunk.is_over:
            self._trunk = Trunk(self._stub)
        return self._trunk.begin(request, timeout_seconds)

    async def close(self) -> None:
        """Ends the call, and with it every generation on it."""
        if self._trunk is not None:
            await self._trunk.close()


class Trunk:
    """One call, from its opening to its end."""

    def __init__(self, stub: worker_pb2_grpc.WorkerAsyncStub) -> None:
        self._orders: deque[worker_pb2.RelayRequest] = deque()
        self._has_orders = asyncio.Event()
        self._numbers = itertools.count(1)
        self._generations: dict[int, RelayedGeneration] = {}
        self.is_over = False
        """Whether the call has ended, so that nothing can begin on it."""
        self._call = stub.Relay(self._given_orders())
        self._reading = asyncio.create_task(self._read(), name="read relayed generations")

    def begin(self, request: generation_pb2.GenerateRequest, timeout_seconds: float | None) -> RelayedGeneration:
        """Begins a generation."""
        number = next(self._numbers)
        start = worker_pb2.RelayStart(request=request)
        if timeout_seconds is not None:
            start.timeout.FromNanoseconds(int(timeout_seconds * 1e9))
        generation = RelayedGeneration(lambda: self._cancel(number), timeout_seconds)
        self._generations[number] = generation
        self._order(worker_pb2.RelayRequest(stream=number, start=start))
        return generation

    async def close(self) -> None:
        """Ends the call."""
        self._call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def _order(self, order: worker_pb2.RelayRequest) -> None:
        self._orders.append(order)
        self._has_orders.set()

    async def _given_orders(self) -> AsyncIterator[worker_pb2.RelayRequest]:
        while not self.is_over:
            while self._orders:
                yield self._orders.popleft()
            self._has_orders.clear()
            await self._has_orders.wait()

    def _cancel(self, number: int) -> None:
        """Forgets a generation that its reader has ended, and tells the worker."""
        if self._generations.pop(number, None) is not None and not self.is_over:
            self._order(worker_pb2.RelayRequest(stream=number, cancel=worker_pb2.RelayCancel()))

    async def _read(self) -> None:
        """Fans the news out until the call ends, by which every generation that is left ends as well."""
        error = _error(grpc.StatusCode.UNAVAILABLE, "the worker has ended the call that carried its generations")
        try:
            async for message in self._call:
                self._hand_over(message.events)
                if not message.needs_no_ready:
                    self._order(_READY)
        except grpc.aio.AioRpcError as broken:
            error = _loss(broken)
        except asyncio.CancelledError:
            # Raised as well when the channel was closed from this side.
            error = _error(grpc.StatusCode.CANCELLED, "the connection to the worker was closed")
            raise
        finally:
            self.is_over = True
            self._has_orders.set()
            self._call.cancel()
            generations = tuple(self._generations.values())
            self._generations.clear()
            for generation in generations:
                generation.fail(error)

    def _hand_over(self, events: Iterable[worker_pb2.RelayEvent]) -> None:
        """Gives each generation its news; those that wait for their first token before those that read along."""
        later = []
        for event in events:
            generation = self._generations.get(event.stream)
            if generation is None:
                # Cancelled in the meantime.
                continue
            if generation.has_output:
                later.append((generation, event))
            else:
                self._give(generation, event)
        for generation, event in later:
            self._give(generation, event)

    def _give(self, generation: RelayedGeneration, event: worker_pb2.RelayEvent) -> None:
        if event.HasField("response"):
            generation.add(event.response)
            if generation.is_complete:
                del self._generations[event.stream]
        else:
            del self._generations[event.stream]
            generation.fail(_error_of(event.status))


def _error_of(encoded: bytes) -> grpc.aio.AioRpcError:
    """Makes the error that a call of its own would have raised."""
    status = status_pb2.Status.FromString(encoded)
    trailers = grpc.aio.Metadata((DETAILS_TRAILER, encoded))
    return _error(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, trailers)


def _loss(broken: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
    """Makes the error of every generation on a call that broke: none of them is to blame, and others may take over.

    An order that meets a dying connection ends the call as INTERNAL instead of UNAVAILABLE.
    """
    if broken.code() is grpc.StatusCode.UNAVAILABLE:
        return broken
    message = f"the call to the worker broke ({broken.code().name}): {broken.details()}"
    return _error(grpc.StatusCode.UNAVAILABLE, message)


def _error(code: grpc.StatusCode, message: str, trailers: Any = None) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers or grpc.aio.Metadata(), details=message)
