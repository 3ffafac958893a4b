"""The gRPC channel to a worker: its stubs, its generations, and its liveness probe."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

from vllama_balancer.workers.relay import Relay
from vllama_protos.v1 import embedding_pb2_grpc, generation_pb2_grpc, worker_pb2, worker_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.workers.relay import RelayedGeneration, StreamEvent
    from vllama_protos.v1 import generation_pb2

REQUEST_ID_HEADER = "x-request-id"
"""Metadata key of a request's id."""

MAX_RELAYED_BYTES = 256 * 1024
"""Larger requests (images, mostly) get a call of their own, so that others do not wait behind them."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message in either direction: long prompts, images and many vectors fit."""

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
    # This one limits a single attempt, not the pause between two.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    # Otherwise two channels to one address share a connection and fail together.
    ("grpc.use_local_subchannel_pool", 1),
    # Retries are decided in one place only, the dispatcher.
    ("grpc.enable_retries", 0),
)
MAX_RECONNECT_BACKOFF = "grpc.max_reconnect_backoff_ms"
REMOTE_OPTIONS = (*CHANNEL_OPTIONS, (MAX_RECONNECT_BACKOFF, 1_000))
# An attempt to open a local socket costs next to nothing, and a worker that is ready should get work at once.
LOCAL_OPTIONS = (*CHANNEL_OPTIONS, (MAX_RECONNECT_BACKOFF, 200))


NOWHERE = "unix:nowhere"
"""Target of a channel to no worker."""


class Channel:
    """One connection to one worker."""

    def __init__(self, channel: grpc.aio.Channel, is_outdated: Callable[[], bool] = lambda: False) -> None:
        self._channel = channel
        self.is_outdated = is_outdated
        """Whether a channel that is opened now would use other credentials."""
        self.generation = generation_pb2_grpc.GenerationStub(channel)
        self.embedding = embedding_pb2_grpc.EmbeddingStub(channel)
        self.worker = worker_pb2_grpc.WorkerStub(channel)
        self.liveness_probe = LivenessProbe(self.worker)
        self._relay = Relay(self.worker)

    def generate(
        self, request: generation_pb2.GenerateRequest, timeout_seconds: float | None, *, can_relay: bool
    ) -> RelayedGeneration | SeparateGeneration:
        """Begins a generation: on the shared call if the worker relays, else on a call of its own."""
        if can_relay and request.ByteSize() <= MAX_RELAYED_BYTES:
            return self._relay.begin(request, timeout_seconds)
        metadata = ((REQUEST_ID_HEADER, request.request_id),)
        return SeparateGeneration(self.generation.Generate(request, timeout=timeout_seconds, metadata=metadata))

    async def close(self) -> None:
        """Closes the connection and ends its calls."""
        await self.liveness_probe.close()
        await self._relay.close()
        await self._channel.close()


class SeparateGeneration:
    """A generation on a call of its own, with the interface of RelayedGeneration."""

    def __init__(
        self, call: grpc.aio.UnaryStreamCall[generation_pb2.GenerateRequest, generation_pb2.GenerateResponse]
    ) -> None:
        self._call = call
        self._responses = call.__aiter__()

    def __aiter__(self) -> SeparateGeneration:
        return self

    async def __anext__(self) -> StreamEvent:
        """Waits for the next event. Raises AioRpcError, and CancelledError after `cancel`."""
        response = await self._responses.__anext__()
        return response.WhichOneof("event"), response

    def cancel(self) -> bool:
        """Ends it from this side; False when it has ended already."""
        return self._call.cancel()


class LivenessProbe:
    """Checks that a worker answers; concurrent checks share one call.

    When a worker crashes, all its requests check the next one at the same moment. On a busy machine each answer takes
    time, and one is enough.
    """

    def __init__(self, stub: worker_pb2_grpc.WorkerAsyncStub) -> None:
        self._stub = stub
        self._running: asyncio.Task[None] | None = None

    def check(self, timeout_seconds: float) -> asyncio.Future[None]:
        """Begins a check or joins the running one. Cancelling the future leaves the check running for others.

        Awaiting it raises AioRpcError when there is no answer.
        """
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._describe(timeout_seconds), name="check that a worker lives")
            self._running.add_done_callback(_retrieve)
        return asyncio.shield(self._running)

    async def close(self) -> None:
        """Cancels the running check, and with it the futures that wait for it."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _describe(self, timeout_seconds: float) -> None:
        await self._stub.Describe(worker_pb2.DescribeRequest(), timeout=timeout_seconds)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Marks the error of a check as seen: all its waiters may have left, and asyncio would log it."""
    if not task.cancelled():
        task.exception()


def is_local(address: str) -> bool:
    """Returns whether an address is a unix socket of this machine."""
    return address.startswith("unix:")


def open_channel(address: str) -> Channel:
    """Opens an unencrypted channel; for unix sockets and trusted networks."""
    options = LOCAL_OPTIONS if is_local(address) else REMOTE_OPTIONS
    return Channel(grpc.aio.insecure_channel(address, options=options))


def missing_channel() -> Channel:
    """Returns the place of a channel that could not be opened yet, or of a worker that runs nowhere yet."""
    return Channel(grpc.aio.insecure_channel(NOWHERE, options=LOCAL_OPTIONS), lambda: True)


def secure_channel_opener(
    read_credentials: Callable[[], grpc.ChannelCredentials], stamp: Callable[[], object]
) -> Callable[[str], Channel]:
    """Returns an opener of TLS channels that reads the credentials for each; unix sockets stay unencrypted.

    `stamp` returns another value once the credentials would be others.
    """

    def open_secure(address: str) -> Channel:
        if is_local(address):
            return open_channel(address)
        before = stamp()
        channel = grpc.aio.secure_channel(address, read_credentials(), options=REMOTE_OPTIONS)
        return Channel(channel, lambda: stamp() != before)

    return open_secure
