"""The asyncio client of a vllama server: balancer or worker, the calls are the same.

Usage::

    async with Client("127.0.0.1:50051") as client:
        request = ChatRequest("smollm2:135m", [Message("user", "Why is the sky blue?")])
        async with client.chat(request, timeout_seconds=60) as generation:
            async for text in generation.texts():
                print(text, end="", flush=True)
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, TypeVar

import grpc

from vllama_clients import event_wire, request_wire
from vllama_clients.connection import Connection, Tls
from vllama_clients.errors import NotUsable, Unavailable, error_of_call
from vllama_clients.events import Embedding, Tokens
from vllama_clients.generation import Generation
from vllama_protos.v1 import embedding_pb2_grpc, generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from vllama_clients.messages import ChatRequest, EmbedRequest, GenerateRequest

ReplyT = TypeVar("ReplyT")


class Client:
    """Calls one server over one channel, which all calls share and `close` ends.

    Must be made inside the event loop that uses it. Errors are those of errors.py: NotUsable for a closed
    client, or one of another event loop. `timeout_seconds` bounds a whole call, the stream included;
    DeadlineExceeded when it passes; None means no bound.
    """

    def __init__(
        self,
        target: str | Connection = "127.0.0.1:50051",
        *,
        tls: Tls | None = None,
        api_key: str = "",
        timeout_seconds: float | None = None,
    ) -> None:
        self._connection = target if isinstance(target, Connection) else Connection(target, tls, api_key)
        self._timeout_seconds = timeout_seconds
        self._metadata = self._connection.metadata()
        self._loop = _running_loop()
        self._closed = False
        self._channel = self._connection.aio_channel()
        self._generation: generation_pb2_grpc.GenerationAsyncStub = generation_pb2_grpc.GenerationStub(self._channel)
        self._embedding: embedding_pb2_grpc.EmbeddingAsyncStub = embedding_pb2_grpc.EmbeddingStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels the calls that still run and closes the channel. May be called more than once."""
        if not self._closed:
            self._check()
            self._closed = True
            await self._channel.close()

    async def ready(self, *, timeout_seconds: float = 10.0) -> None:
        """Waits until the server accepts connections. Unavailable when it does not in time."""
        self._check()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._channel.channel_ready()
        except TimeoutError:
            raise Unavailable(
                f"No server answers at {self._connection.target} within {timeout_seconds:g} s.",
                code=grpc.StatusCode.UNAVAILABLE,
            ) from None

    def generate(self, request: GenerateRequest, *, timeout_seconds: float | None = None) -> Generation:
        """Continues text or token ids; the call begins at once and is read from the result."""
        return self._generate(request, timeout_seconds)

    def chat(self, request: ChatRequest, *, timeout_seconds: float | None = None) -> Generation:
        """Answers a conversation; the call begins at once and is read from the result."""
        return self._generate(request, timeout_seconds)

    async def embed(self, request: EmbedRequest, *, timeout_seconds: float | None = None) -> list[Embedding]:
        """Embeds texts: one vector for each input, in order."""
        self._check()
        call = self._embedding.Embed(
            request_wire.embed_request(request), timeout=self._timeout(timeout_seconds), metadata=self._metadata
        )
        return [event_wire.embedding(vector) for vector in (await _reply(call)).vectors]

    async def tokenize(self, request: GenerateRequest | ChatRequest, *, timeout_seconds: float | None = None) -> Tokens:
        """Renders and tokenizes the input of a generation without generating."""
        self._check()
        call = self._generation.Tokenize(
            request_wire.tokenize_request(request), timeout=self._timeout(timeout_seconds), metadata=self._metadata
        )
        reply = await _reply(call)
        return Tokens(token_ids=tuple(reply.token_ids), text=reply.text)

    async def detokenize(self, model: str, token_ids: Sequence[int], *, timeout_seconds: float | None = None) -> str:
        """Turns token ids into text, special tokens left out."""
        self._check()
        call = self._generation.Detokenize(
            request_wire.detokenize_request(model, token_ids),
            timeout=self._timeout(timeout_seconds),
            metadata=self._metadata,
        )
        return (await _reply(call)).text

    def _generate(self, request: GenerateRequest | ChatRequest, timeout_seconds: float | None) -> Generation:
        self._check()
        return Generation(
            self._generation.Generate(
                request_wire.generation_request(request),
                timeout=self._timeout(timeout_seconds),
                metadata=self._metadata,
            )
        )

    def _check(self) -> None:
        """Raises NotUsable for a closed client, or one of another event loop."""
        if self._closed:
            raise NotUsable("The client is closed; make a new one.")
        if _running_loop() is not self._loop:
            raise NotUsable("The client belongs to another event loop; make one in the loop that uses it.")

    def _timeout(self, timeout_seconds: float | None) -> float | None:
        return self._timeout_seconds if timeout_seconds is None else timeout_seconds


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise NotUsable("No event loop is running here; make and use the client inside one.") from None


async def _reply(call: Awaitable[ReplyT]) -> ReplyT:
    try:
        return await call
    except grpc.RpcError as error:
        raise error_of_call(error) from None
