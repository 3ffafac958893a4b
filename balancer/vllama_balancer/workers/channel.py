"""The gRPC channel to a worker, and its stubs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from vllama_protos.v1 import embedding_pb2_grpc, generation_pb2_grpc, worker_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

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
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Otherwise two channels to one address share a connection, and its fate.
    ("grpc.use_local_subchannel_pool", 1),
    # Retries are decided in one place only, the dispatcher.
    ("grpc.enable_retries", 0),
)


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

    async def close(self) -> None:
        """Closes the connection and ends its calls."""
        await self._channel.close()


def open_channel(address: str) -> Channel:
    """Opens an unencrypted channel; for unix sockets and trusted networks."""
    return Channel(grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS))


def secure_channel_opener(credentials: grpc.ChannelCredentials) -> Callable[[str], Channel]:
    """Makes an opener of TLS channels; unix sockets stay unencrypted."""

    def open_secure(address: str) -> Channel:
        if address.startswith("unix:"):
            return open_channel(address)
        return Channel(grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS))

    return open_secure
