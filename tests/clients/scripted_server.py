"""A scripted vllama server: plays a test's script and keeps the requests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from vllama_protos.v1 import (
    embedding_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


@dataclass(frozen=True)
class Refusal:
    """One error that the server plays, with google.rpc details."""

    code: grpc.StatusCode
    message: str = "No."
    reason: str = ""
    field: str = ""
    retry_after_seconds: float | None = None

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """Encodes the details as a vllama server does."""
        info = error_details_pb2.ErrorInfo(domain="vllama", reason=self.reason)
        if self.field:
            info.metadata["field"] = self.field
        details = [info]
        if self.retry_after_seconds is not None:
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(self.retry_after_seconds * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return (("grpc-status-details-bin", status.SerializeToString()),)


class Pause:
    """A step at which the server waits until the call is cancelled."""


Step = generation_pb2.GenerateResponse | Refusal | Pause


@dataclass
class Script(
    generation_pb2_grpc.GenerationServicer, embedding_pb2_grpc.EmbeddingServicer, fleet_pb2_grpc.FleetServicer
):
    """The server's script, and the requests it got."""

    streams: list[Sequence[Step]] = field(default_factory=list)
    """One entry for each call of Generate, in order; the last one serves all further calls."""
    reply: object = None
    """What the unary calls answer: a message, or a Refusal."""
    fleets: Sequence[fleet_pb2.ListWorkersResponse | Refusal] = ()
    """What WatchFleet and RestartWorkers stream."""
    requests: list[object] = field(default_factory=list)
    """Every request, in order."""
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)
    """The metadata of every call, in order."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a call ends at a Pause."""
    deadlines: list[float | None] = field(default_factory=list)
    """Seconds that every call had left when it came."""

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        """Plays the next stream."""
        self._record(request, context)
        for step in self.streams.pop(0) if len(self.streams) > 1 else self.streams[0]:
            if isinstance(step, Refusal):
                await _refuse(step, context)
            elif isinstance(step, Pause):
                await self._pause()
            else:
                yield step

    async def Tokenize(self, request: object, context: grpc.aio.ServicerContext) -> object:
        """Answers with the reply."""
        return await self._answer(request, context)

    async def Detokenize(self, request: object, context: grpc.aio.ServicerContext) -> object:
        """Answers with the reply."""
        return await self._answer(request, context)

    async def Embed(self, request: object, context: grpc.aio.ServicerContext) -> object:
        """Answers with the reply."""
        return await self._answer(request, context)

    async def ListWorkers(self, request: object, context: grpc.aio.ServicerContext) -> object:
        """Answers with the reply."""
        return await self._answer(request, context)

    async def DrainWorker(self, request: object, context: grpc.aio.ServicerContext) -> object:
        """Answers with the reply."""
        return await self._answer(request, context)

    async def UndrainWorker(self, request: object, context: grpc.aio.ServicerContext) -> object:
        """Answers with the reply."""
        return await self._answer(request, context)

    async def UnloadModel(self, request: object, context: grpc.aio.ServicerContext) -> object:
        """Answers with the reply."""
        return await self._answer(request, context)

    async def WatchFleet(self, request: object, context: grpc.aio.ServicerContext) -> AsyncIterator[object]:
        """Streams the fleets."""
        self._record(request, context)
        for fleet in self.fleets:
            yield fleet

    async def RestartWorkers(self, request: object, context: grpc.aio.ServicerContext) -> AsyncIterator[object]:
        """Refuses, or streams the fleets."""
        self._record(request, context)
        for fleet in self.fleets:
            if isinstance(fleet, Refusal):
                await _refuse(fleet, context)
            yield fleet

    async def _answer(self, request: object, context: grpc.aio.ServicerContext) -> object:
        self._record(request, context)
        if isinstance(self.reply, Refusal):
            await _refuse(self.reply, context)
        if isinstance(self.reply, Pause):
            await self._pause()
        return self.reply

    async def _pause(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    def _record(self, request: object, context: grpc.aio.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata() or ()))
        self.deadlines.append(context.time_remaining())


async def _refuse(refusal: Refusal, context: grpc.aio.ServicerContext) -> None:
    context.set_trailing_metadata(refusal.trailers())
    await context.abort(refusal.code, refusal.message)


def started(worker: str = "worker-0", **fields: object) -> generation_pb2.GenerateResponse:
    """Builds a first event."""
    return generation_pb2.GenerateResponse(started=generation_pb2.Started(worker=worker, prompt_tokens=3, **fields))


def delta(text: str = "", **fields: object) -> generation_pb2.GenerateResponse:
    """Builds an event with new output."""
    return generation_pb2.GenerateResponse(delta=generation_pb2.Delta(text=text, **fields))


def finished(**fields: object) -> generation_pb2.GenerateResponse:
    """Builds a last event."""
    fields.setdefault("reason", generation_pb2.FINISH_REASON_STOP)
    return generation_pb2.GenerateResponse(finished=generation_pb2.Finished(**fields))


async def start_server(
    script: Script, address: str, credentials: grpc.ServerCredentials | None = None
) -> tuple[grpc.aio.Server, int]:
    """Starts a server that plays the script; the caller stops it. Returns it with its port."""
    server = grpc.aio.server()
    generation_pb2_grpc.add_GenerationServicer_to_server(script, server)
    embedding_pb2_grpc.add_EmbeddingServicer_to_server(script, server)
    fleet_pb2_grpc.add_FleetServicer_to_server(script, server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    return server, port
