"""One call that carries generations: orders come in, each generation is a task, one task sends the news of all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc import status_pb2  # type: ignore[import-untyped]

from vllama_protos.v1 import worker_pb2 as pb
from vllama_server.engine.events import Chunk
from vllama_server.errors import InvalidRequest, WorkerError
from vllama_server.relay.credit import Credit
from vllama_server.relay.outbox import Outbox
from vllama_server.status_details import details_of
from vllama_server.wire import events

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Coroutine

    from vllama_protos.v1 import generation_pb2
    from vllama_server.call_record import CallRecord
    from vllama_server.engine.events import GenerationEvent
    from vllama_server.generations import Generations
    from vllama_server.identity import Identity

    Context = grpc.aio.ServicerContext[Any, Any]

MESSAGES_UNDER_WAY = 2
"""One that the caller works on, and one that is there when it is done."""
METHOD = "Generate"
"""How a generation is called in metrics and logs, whichever way it came."""


class RelayedCall:
    """The generations of one call. `serve` it once."""

    def __init__(self, generations: Generations, record: CallRecord, identity: Identity) -> None:
        self._generations = generations
        self._record = record
        self._identity = identity
        self._outbox = Outbox()
        self._credit = Credit(MESSAGES_UNDER_WAY)
        self._running: dict[int, asyncio.Task[None]] = {}

    async def serve(
        self, orders: AsyncIterable[pb.RelayRequest], context: Context, is_over: Coroutine[Any, Any, None]
    ) -> None:
        """Serves until the orders end, or `is_over` returns because the worker leaves; what runs is let finish.

        Cancelling it ends every generation. Raises InvalidRequest for an order that cannot be.
        """
        obeying, leaving = asyncio.create_task(self._obey(orders)), asyncio.create_task(is_over)
        sending = asyncio.create_task(self._send(context))
        try:
            await asyncio.wait((obeying, leaving, sending), return_when=asyncio.FIRST_COMPLETED)
            if obeying.done():
                self._credit.lift()
            refusal = obeying.exception() if obeying.done() else None
            if refusal is None and self._running and not sending.done():
                await asyncio.wait(tuple(self._running.values()))
            # Two operations of one kind must not meet on a call: its last message comes before its status.
            self._outbox.close()
            await sending
            if refusal is not None:
                raise refusal
        finally:
            await _ended(obeying, leaving, sending, *self._running.values())

    async def _obey(self, orders: AsyncIterable[pb.RelayRequest]) -> None:
        async for order in orders:
            kind = order.WhichOneof("order")
            if kind == "ready":
                self._credit.add()
            elif kind == "start":
                self._start(order.stream, order.start)
            elif (task := self._running.get(order.stream)) is not None:
                task.cancel()

    async def _send(self, context: Context) -> None:
        while True:
            await self._credit.some()
            news = await self._outbox.take()
            if news is None:
                return
            news.needs_no_ready = not self._credit.spend(news.ByteSize())
            await context.write(news)

    def _start(self, stream: int, start: pb.RelayStart) -> None:
        if stream in self._running:
            raise InvalidRequest(f"stream {stream} still runs; give every generation a number of its own.", "stream")
        task = asyncio.create_task(self._generate(stream, start), name=f"relayed generation {stream}")
        self._running[stream] = task
        task.add_done_callback(lambda _: self._running.pop(stream))

    async def _generate(self, stream: int, start: pb.RelayStart) -> None:
        """Runs one generation; whatever becomes of it, this does not raise unless it is cancelled."""
        request = start.request
        seconds = start.timeout.ToTimedelta().total_seconds() if start.HasField("timeout") else None

        async def put(event: GenerationEvent) -> None:
            if type(event) is Chunk:
                await self._outbox.put_chunk(stream, event)
            else:
                self._outbox.put(stream, self._event(stream, event, request))

        try:
            async with asyncio.timeout(seconds):
                with self._record.of(METHOD, request.request_id) as request_id:
                    request.request_id = request_id
                    await self._generations.run(request, put)
        except WorkerError as error:
            self._outbox.put(stream, pb.RelayEvent(stream=stream, status=details_of(error)))
        except TimeoutError:
            self._outbox.put(stream, pb.RelayEvent(stream=stream, status=_TOO_LATE))
        except asyncio.CancelledError:
            self._outbox.drop(stream)
            raise

    def _event(self, stream: int, event: GenerationEvent, request: generation_pb2.GenerateRequest) -> pb.RelayEvent:
        return pb.RelayEvent(stream=stream, response=events.response(event, self._identity, request))


async def _ended(*tasks: asyncio.Task[None]) -> None:
    """Cancels tasks and waits for their end; what became of them does not matter any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


_TOO_LATE: bytes = status_pb2.Status(
    code=grpc.StatusCode.DEADLINE_EXCEEDED.value[0], message="the deadline passed before the generation ended."
).SerializeToString()
