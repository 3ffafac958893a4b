"""One Relay call: a task receives requests, each generation is a task, and one task sends the events of all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc import status_pb2  # type: ignore[import-untyped]

from vllama_protos.durations import seconds_of
from vllama_server.errors import InvalidRequest, WorkerError, encoded_status
from vllama_server.relay.flow_control import FlowControl
from vllama_server.relay.send_buffer import SendBuffer

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Coroutine

    from vllama_protos.v1 import generation_pb2
    from vllama_protos.v1 import worker_pb2 as pb
    from vllama_server.generation_runner import GenerationRunner
    from vllama_server.rpc_log import RpcLog

    Context = grpc.aio.ServicerContext[Any, Any]

MESSAGES_UNDER_WAY = 2
"""One that the caller works on, and one that is there when it is done."""
METHOD = "Generate"
"""The method of every generation in metrics and logs, also of a relayed one."""


class RelayedCall:
    """The generations of one call. `serve` it once."""

    def __init__(self, runner: GenerationRunner, log: RpcLog) -> None:
        self._runner = runner
        self._log = log
        self._buffer = SendBuffer()
        self._flow_control = FlowControl(MESSAGES_UNDER_WAY)
        self._running: dict[int, asyncio.Task[None]] = {}

    async def serve(
        self, requests: AsyncIterable[pb.RelayRequest], context: Context, closed: Coroutine[Any, Any, None]
    ) -> None:
        """Serves until the requests end, or until `closed` returns because the worker ends; running generations finish.

        Cancelling it ends every generation. Raises InvalidRequest for a stream number that is in use.
        """
        receiving, closing = asyncio.create_task(self._receive(requests)), asyncio.create_task(closed)
        sending = asyncio.create_task(self._send(context))
        try:
            await asyncio.wait((receiving, closing, sending), return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                self._flow_control.lift_limit()
            refusal = receiving.exception() if receiving.done() else None
            if refusal is None and self._running and not sending.done():
                await asyncio.wait(tuple(self._running.values()))
            # gRPC allows one operation of a kind at a time: the last message is sent before the status.
            self._buffer.close()
            await sending
            if refusal is not None:
                raise refusal
        finally:
            await _ended(receiving, closing, sending, *self._running.values())

    async def _receive(self, requests: AsyncIterable[pb.RelayRequest]) -> None:
        async for request in requests:
            kind = request.WhichOneof("order")
            if kind == "ready":
                self._flow_control.grant()
            elif kind == "start":
                self._start(request.stream, request.start)
            elif (task := self._running.get(request.stream)) is not None:
                task.cancel()

    async def _send(self, context: Context) -> None:
        while True:
            await self._flow_control.available()
            message = await self._buffer.take()
            if message is None:
                return
            message.needs_no_ready = not self._flow_control.consume(message.ByteSize())
            await context.write(message)

    def _start(self, stream: int, start: pb.RelayStart) -> None:
        if stream in self._running:
            raise InvalidRequest(f"stream {stream} still runs; give every generation a number of its own.", "stream")
        task = asyncio.create_task(self._generate(stream, start), name=f"relayed generation {stream}")
        self._running[stream] = task
        task.add_done_callback(lambda _: self._running.pop(stream))

    async def _generate(self, stream: int, start: pb.RelayStart) -> None:
        """Runs one generation; raises only when it is cancelled."""
        request = start.request
        seconds = seconds_of(start.timeout) if start.HasField("timeout") else None

        async def send(event: generation_pb2.GenerateResponse, is_delta: bool) -> None:
            if is_delta:
                await self._buffer.put_delta(stream, event)
            else:
                self._buffer.put(stream, event)

        try:
            async with asyncio.timeout(seconds) as limit:
                with self._log.call(METHOD, request.request_id, lambda: _seconds_left(limit)) as request_id:
                    request.request_id = request_id
                    await self._runner.run(request, send)
        except WorkerError as error:
            self._buffer.put(stream, encoded_status(error))
        except TimeoutError:
            self._buffer.put(stream, _TOO_LATE)
        except asyncio.CancelledError:
            self._buffer.discard(stream)
            raise


def _seconds_left(limit: asyncio.Timeout) -> float | None:
    ends_at = limit.when()
    return None if ends_at is None else ends_at - asyncio.get_running_loop().time()


async def _ended(*tasks: asyncio.Task[None]) -> None:
    """Cancels tasks and waits for their end; their results are not needed."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


_TOO_LATE: bytes = status_pb2.Status(
    code=grpc.StatusCode.DEADLINE_EXCEEDED.value[0], message="the deadline passed before the generation ended."
).SerializeToString()
