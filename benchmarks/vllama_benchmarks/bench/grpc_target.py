"""A gRPC target: a worker or a balancer."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc

from vllama_benchmarks.bench.sample import Request, Sample
from vllama_clients.connection import Connection, Tls
from vllama_protos.v1 import generation_pb2, generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class GrpcTarget:
    """A gRPC server; every session has a channel of its own, as separate clients have."""

    def __init__(
        self,
        target: str,
        model: str,
        *,
        api_key: str = "",
        tls: Tls | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._connection = Connection(target, tls, api_key, attempts=1)
        self._model = model
        self._clock = clock

    @asynccontextmanager
    async def session(self) -> AsyncIterator[GrpcSession]:
        """Opens a channel."""
        async with self._connection.aio_channel() as channel:
            yield GrpcSession(channel, self._connection.metadata(), self._model, self._clock)


class GrpcSession:
    """One channel."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        metadata: tuple[tuple[str, str], ...],
        model: str,
        clock: Callable[[], float],
    ) -> None:
        self._stub: generation_pb2_grpc.GenerationAsyncStub = generation_pb2_grpc.GenerationStub(channel)
        self._metadata = metadata
        self._model = model
        self._clock = clock

    async def run(self, request: Request) -> Sample:
        """Sends a request and reads its answer to the end."""
        begun = self._clock()
        first: float | None = None
        finished: generation_pb2.Finished | None = None
        try:
            async for response in self._stub.Generate(self._message(request), metadata=self._metadata):
                if first is None and (response.delta.text or response.delta.thinking):
                    first = self._clock() - begun
                if response.HasField("finished"):
                    finished = response.finished
        except grpc.RpcError as error:
            return Sample(self._clock() - begun, first, error=str(error.details() or error.code().name))
        seconds = self._clock() - begun
        if finished is None:
            return Sample(seconds, first, error="the stream ended in the middle")
        usage = finished.usage
        return Sample(seconds, first, usage.completion_tokens, usage.prompt_tokens)

    def _message(self, request: Request) -> generation_pb2.GenerateRequest:
        message = generation_pb2.GenerateRequest(model=self._model)
        message.chat.messages.add(role="user", content=request.prompt)
        message.sampling.max_tokens = request.max_tokens
        message.sampling.temperature = 0
        message.sampling.ignore_eos = True
        return message
