"""The synchronous client: the same calls and types as `Client`, for services without an event loop.

Usage::

    with SyncClient("127.0.0.1:50051") as client:
        request = GenerateRequest("smollm2:135m", "The sky is")
        print(client.generate(request, timeout_seconds=60).collect().text)

Thread-safe as a whole: threads share one client and so one channel; one generation belongs to one
thread (only `cancel` may be called from another).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import grpc

from vllama_clients import event_wire, request_wire
from vllama_clients.connection import Connection, Tls
from vllama_clients.errors import IncompleteStream, NotUsable, Unavailable, error_of_call
from vllama_clients.events import Completion, Delta, Embedding, Event, Finished, Tokens, completion_of
from vllama_protos.v1 import embedding_pb2_grpc, generation_pb2, generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllama_clients.messages import ChatRequest, EmbedRequest, GenerateRequest

RequestT = TypeVar("RequestT")
ReplyT = TypeVar("ReplyT")


class SyncClient:
    """Calls one server over one channel, which all calls share and `close` ends.

    Errors are those of errors.py. `timeout_seconds` bounds a whole call, the stream included;
    DeadlineExceeded when it passes; None means no bound. A `channel` that is given is used instead
    of a new one.
    """

    def __init__(
        self,
        target: str | Connection = "127.0.0.1:50051",
        *,
        tls: Tls | None = None,
        api_key: str = "",
        timeout_seconds: float | None = None,
        channel: grpc.Channel | None = None,
    ) -> None:
        self._connection = target if isinstance(target, Connection) else Connection(target, tls, api_key)
        self._timeout_seconds = timeout_seconds
        self._metadata = self._connection.metadata()
        self._closed = False
        self._channel = channel or self._connection.channel()
        self._generation = generation_pb2_grpc.GenerationStub(self._channel)
        self._embedding = embedding_pb2_grpc.EmbeddingStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels the calls that still run and closes the channel. May be called more than once."""
        self._closed = True
        self._channel.close()

    def ready(self, *, timeout_seconds: float = 10.0) -> None:
        """Waits until the server accepts connections. Unavailable when it does not in time."""
        self._check()
        try:
            grpc.channel_ready_future(self._channel).result(timeout=timeout_seconds)
        except grpc.FutureTimeoutError:
            raise Unavailable(
                f"No server answers at {self._connection.target} within {timeout_seconds:g} s.",
                code=grpc.StatusCode.UNAVAILABLE,
            ) from None

    def generate(self, request: GenerateRequest, *, timeout_seconds: float | None = None) -> SyncGeneration:
        """Continues text or token ids; the call begins at once and is read from the result."""
        return self._generate(request, timeout_seconds)

    def chat(self, request: ChatRequest, *, timeout_seconds: float | None = None) -> SyncGeneration:
        """Answers a conversation; the call begins at once and is read from the result."""
        return self._generate(request, timeout_seconds)

    def embed(self, request: EmbedRequest, *, timeout_seconds: float | None = None) -> list[Embedding]:
        """Embeds texts: one vector for each input, in order."""
        reply = self._call(self._embedding.Embed, request_wire.embed_request(request), timeout_seconds)
        return [event_wire.embedding(vector) for vector in reply.vectors]

    def tokenize(self, request: GenerateRequest | ChatRequest, *, timeout_seconds: float | None = None) -> Tokens:
        """Renders and tokenizes the input of a generation without generating."""
        reply = self._call(self._generation.Tokenize, request_wire.tokenize_request(request), timeout_seconds)
        return Tokens(token_ids=tuple(reply.token_ids), text=reply.text)

    def detokenize(self, model: str, token_ids: Sequence[int], *, timeout_seconds: float | None = None) -> str:
        """Turns token ids into text, special tokens left out."""
        request = request_wire.detokenize_request(model, token_ids)
        return self._call(self._generation.Detokenize, request, timeout_seconds).text

    def _generate(self, request: GenerateRequest | ChatRequest, timeout_seconds: float | None) -> SyncGeneration:
        self._check()
        call = self._generation.Generate(
            request_wire.generation_request(request), timeout=self._timeout(timeout_seconds), metadata=self._metadata
        )
        return SyncGeneration(call)

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[RequestT, ReplyT],
        request: RequestT,
        timeout_seconds: float | None,
    ) -> ReplyT:
        self._check()
        try:
            return method(request, timeout=self._timeout(timeout_seconds), metadata=self._metadata)
        except grpc.RpcError as error:
            raise error_of_call(error) from None

    def _check(self) -> None:
        """Raises NotUsable for a closed client."""
        if self._closed:
            raise NotUsable("The client is closed; make a new one.")

    def _timeout(self, timeout_seconds: float | None) -> float | None:
        return self._timeout_seconds if timeout_seconds is None else timeout_seconds


class _Call(Protocol):
    """grpcio's stream of responses, whose class has no public name."""

    def __next__(self) -> generation_pb2.GenerateResponse: ...

    def cancel(self) -> object: ...


class SyncGeneration:
    """Yields `Started`, `Delta`s, `Finished`; leaving its `with`, or `cancel`, ends the call on the server.

    Errors are those of errors.py; after one, or after `Finished`, the iterator is exhausted.
    """

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._finished = False
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        while not self._ended:
            event = event_wire.event(self._read())
            if event is not None:
                self._finished = self._finished or isinstance(event, Finished)
                return event
        raise StopIteration

    def texts(self) -> Iterator[str]:
        """Yields the pieces of the answer, without the reasoning, as they come."""
        for event in self:
            if isinstance(event, Delta) and event.text:
                yield event.text

    def collect(self) -> Completion:
        """Reads to the end and adds up. Cancels the call when that fails."""
        with self:
            return completion_of(list(self))

    def cancel(self) -> None:
        """Ends the call; the server frees its KV blocks within a second. No effect after the end."""
        self._call.cancel()

    def _read(self) -> generation_pb2.GenerateResponse:
        """Reads one message; an empty one, which is no event, at the end."""
        try:
            return next(self._call)
        except grpc.RpcError as error:
            self._ended = True
            raise error_of_call(error) from None
        except StopIteration:
            self._ended = True
        if not self._finished:
            raise IncompleteStream("The stream ended before the generation was complete.")
        return generation_pb2.GenerateResponse()
