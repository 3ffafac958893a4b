"""The gRPC channel to a worker, its stubs, and how generations begin on it.

Asks one worker whether it lives; whoever wants to know meanwhile shares the answer.

When a worker dies, all its requests want to know it of the next one at the same moment. On a busy machine each answer
takes its time, and one is as good as many.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import grpc

from vllama_balancer.workers.relay import Relay
from vllama_protos.v1 import embedding_pb2_grpc, generation_pb2_grpc, worker_pb2, worker_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from vllama_protos.v1 import generation_pb2


REQUEST_ID_HEADER = "x-request-id"
"""Metadata key under which a request's id travels."""

LONGEST_RELAYED_BYTES = 256 * 1024
"""Larger requests (pictures, mostly) have a call of their own: others must not wait until they are through."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message either way: long prompts, pictures and many vectors fit."""

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A dead machine answers nothing: ping it, also while no call runs.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A restarted worker listens at the same address again within a second or so.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # This one bounds a single try, not the pause between two.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    # Otherwise two channels to one address share a connection, and its fate.
    ("grpc.use_local_subchannel_pool", 1),
    # Retries are decided in one place only, the dispatcher.
    ("grpc.enable_retries", 0),
)
LONGEST_PAUSE = "grpc.max_reconnect_backoff_ms"
REMOTE_OPTIONS = (*CHANNEL_OPTIONS, (LONGEST_PAUSE, 1_000))
# A try to open a local socket costs next to nothing, and a worker that is ready wants work at once.
LOCAL_OPTIONS = (*CHANNEL_OPTIONS, (LONGEST_PAUSE, 200))


class GenerationCall(Protocol):
    """A running generation."""

    def __aiter__(self) -> AsyncIterator[generation_pb2.GenerateResponse]:
        """Reads its events. Raises AioRpcError, and CancelledError after `cancel`."""
        ...

    def cancel(self) -> bool:
        """Ends it from this side."""
        ...


class Channel:
    """One connection to one worker."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.generation = generation_pb2_grpc.GenerationStub(channel)
        """Generate, Tokenize, Detokenize."""
        self.embedding = embedding_pb2_grpc.EmbeddingStub(channel)
        """Embed."""
        self.worker = worker_pb2_grpc.WorkerStub(channel)
        """Describe, Watch, Drain."""
        self.liveness_probe = LivenessProbe(self.worker)
        """Whether it lives."""
        self._relay = Relay(self.worker)

    def generate(
        self, request: generation_pb2.GenerateRequest, timeout_seconds: float | None, *, can_relay: bool
    ) -> GenerationCall:
        """Begins a generation: on the shared call where the worker has one, else on a call of its own."""
        if can_relay and request.ByteSize() <= LONGEST_RELAYED_BYTES:
            return self._relay.begin(request, timeout_seconds)
        metadata = ((REQUEST_ID_HEADER, request.request_id),)
        return self.generation.Generate(request, timeout=timeout_seconds, metadata=metadata)

    async def close(self) -> None:
        """Closes the connection and ends its calls."""
        await self.liveness_probe.close()
        await self._relay.close()
        await self._channel.close()


def is_local(address: str) -> bool:
    """Tells whether an address is a socket of this machine."""
    return address.startswith("unix:")


def open_channel(address: str) -> Channel:
    """Opens an unencrypted channel; for unix sockets and trusted networks."""
    options = LOCAL_OPTIONS if is_local(address) else REMOTE_OPTIONS
    return Channel(grpc.aio.insecure_channel(address, options=options))


def secure_channel_opener(read_credentials: Callable[[], grpc.ChannelCredentials]) -> Callable[[str], Channel]:
    """Makes an opener of TLS channels, each with the credentials of its moment; unix sockets stay unencrypted."""

    def open_secure(address: str) -> Channel:
        if is_local(address):
            return open_channel(address)
        return Channel(grpc.aio.secure_channel(address, read_credentials(), options=REMOTE_OPTIONS))

    return open_secure


class LivenessProbe:
    """The question that is open, if any."""

    def __init__(self, stub: worker_pb2_grpc.WorkerAsyncStub) -> None:
        self._stub = stub
        self._open: asyncio.Task[None] | None = None

    def check(self, patience_seconds: float) -> asyncio.Future[None]:
        """Asks, or joins who has asked already; cancelling it leaves the question open for the others.

        Awaiting it raises AioRpcError when no answer comes.
        """
        if self._open is None or self._open.done():
            self._open = asyncio.create_task(self._answer(patience_seconds), name="ask for a sign of life")
        return asyncio.shield(self._open)

    async def close(self) -> None:
        """Drops the question; who waits for its answer is cancelled."""
        if self._open is not None:
            self._open.cancel()
            await asyncio.gather(self._open, return_exceptions=True)

    async def _answer(self, patience_seconds: float) -> None:
        await self._stub.Describe(worker_pb2.DescribeRequest(), timeout=patience_seconds)
