"""The synchronous client on a scripted channel with a fake clock, and once on a real server."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc_testing
import pytest

from tests.clients.scripted_server import Refusal, Script, delta, finished, started
from vllama_clients import (
    Busy,
    Cancelled,
    ChatRequest,
    EmbedRequest,
    Finished,
    GenerateRequest,
    IncompleteStream,
    Message,
    NotFound,
    NotUsable,
    Started,
    SyncClient,
    Unavailable,
)
from vllama_protos.v1 import embedding_pb2, embedding_pb2_grpc, generation_pb2, generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GENERATION = generation_pb2.DESCRIPTOR.services_by_name["Generation"]
EMBEDDING = embedding_pb2.DESCRIPTOR.services_by_name["Embedding"]
GENERATE = GENERATION.methods_by_name["Generate"]
REQUEST = GenerateRequest("m", "Hi")
RESULT_SECONDS = 10

T = TypeVar("T")


@pytest.fixture
def channel() -> grpc_testing.Channel:
    """A channel on which the test plays the server; its clock stands still."""
    return grpc_testing.channel([GENERATION, EMBEDDING], grpc_testing.strict_fake_time(0))


@pytest.fixture
def client(channel: grpc_testing.Channel) -> SyncClient:
    """A client on that channel."""
    return SyncClient("scripted", api_key="s3cret", timeout_seconds=7, channel=channel)


@pytest.fixture
def call() -> Iterator[Callable[[Callable[[], T]], Future[T]]]:
    """Runs a blocking call of the client beside the test, which plays the server meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit


def answer(rpc: grpc_testing.UnaryStreamChannelRpc, *events: generation_pb2.GenerateResponse) -> None:
    """Plays a whole stream that ends with OK."""
    rpc.send_initial_metadata(())
    for event in events:
        rpc.send_response(event)
    rpc.terminate((), grpc.StatusCode.OK, "")


def test_streams_events_in_order(client: SyncClient, channel: grpc_testing.Channel, call: Callable) -> None:
    """A generation yields started, deltas, finished."""
    events = call(lambda: list(client.generate(REQUEST)))
    _, _, rpc = channel.take_unary_stream(GENERATE)
    answer(rpc, started(), delta("Hello"), delta(" there"), finished())
    first, *deltas, last = events.result(RESULT_SECONDS)
    assert isinstance(first, Started)
    assert [event.text for event in deltas] == ["Hello", " there"]
    assert isinstance(last, Finished)


def test_sends_the_same_request_as_the_asyncio_client(
    client: SyncClient, channel: grpc_testing.Channel, call: Callable
) -> None:
    """Chats arrive as the wire's message, with the API key beside them."""
    completion = call(lambda: client.chat(ChatRequest("m", [Message("user", "Hi")])).collect())
    metadata, request, rpc = channel.take_unary_stream(GENERATE)
    answer(rpc, started(), delta("Hello"), finished())
    assert completion.result(RESULT_SECONDS).text == "Hello"
    assert request.chat.messages[0].content == "Hi"
    assert ("authorization", "Bearer s3cret") in metadata


def test_texts_leave_the_reasoning_out(client: SyncClient, channel: grpc_testing.Channel, call: Callable) -> None:
    """`texts` yields answer text only."""
    texts = call(lambda: list(client.generate(REQUEST).texts()))
    _, _, rpc = channel.take_unary_stream(GENERATE)
    answer(rpc, started(), delta(thinking="Hm."), delta("Yes"), finished())
    assert texts.result(RESULT_SECONDS) == ["Yes"]


def test_leaving_the_block_cancels_the_call(client: SyncClient, channel: grpc_testing.Channel) -> None:
    """After `with`, the call is cancelled, and reading on raises it."""
    with client.generate(REQUEST) as generation:
        _, _, rpc = channel.take_unary_stream(GENERATE)
        rpc.send_initial_metadata(())
        rpc.send_response(started())
        assert isinstance(next(generation), Started)
    with pytest.raises(Cancelled):
        next(generation)


def test_a_refused_stream_raises_with_its_details(
    client: SyncClient, channel: grpc_testing.Channel, call: Callable
) -> None:
    """Reason and delay are read from the trailers."""
    refusal = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "512 wait.", "QUEUE_FULL", retry_after_seconds=2)
    events = call(lambda: list(client.generate(REQUEST)))
    _, _, rpc = channel.take_unary_stream(GENERATE)
    rpc.terminate(refusal.trailers(), refusal.code, refusal.message)
    with pytest.raises(Busy, match="512 wait") as caught:
        events.result(RESULT_SECONDS)
    assert (caught.value.reason, caught.value.retry_after_seconds) == ("QUEUE_FULL", 2)


def test_a_stream_without_finished_is_incomplete(
    client: SyncClient, channel: grpc_testing.Channel, call: Callable
) -> None:
    """A stream that simply ends is not taken for an answer."""
    events = call(lambda: list(client.generate(REQUEST)))
    _, _, rpc = channel.take_unary_stream(GENERATE)
    answer(rpc, started(), delta("Hel"))
    with pytest.raises(IncompleteStream):
        events.result(RESULT_SECONDS)


def test_after_an_error_a_generation_is_exhausted(client: SyncClient, channel: grpc_testing.Channel) -> None:
    """Reading on after an error yields nothing, not the error once more."""
    generation = client.generate(REQUEST)
    _, _, rpc = channel.take_unary_stream(GENERATE)
    rpc.terminate((), grpc.StatusCode.UNAVAILABLE, "lost")
    with pytest.raises(Unavailable):
        next(generation)
    assert list(generation) == []


def test_tokenizes(client: SyncClient, channel: grpc_testing.Channel, call: Callable) -> None:
    """Token ids and the rendered text are returned."""
    tokens = call(lambda: client.tokenize(REQUEST))
    _, request, rpc = channel.take_unary_unary(GENERATION.methods_by_name["Tokenize"])
    rpc.terminate(generation_pb2.TokenizeResponse(token_ids=[5, 7], text="Hi"), (), grpc.StatusCode.OK, "")
    assert tokens.result(RESULT_SECONDS).token_ids == (5, 7)
    assert request.prompt == "Hi"


def test_detokenizes(client: SyncClient, channel: grpc_testing.Channel, call: Callable) -> None:
    """Ids become text."""
    text = call(lambda: client.detokenize("m", [5, 7]))
    _, request, rpc = channel.take_unary_unary(GENERATION.methods_by_name["Detokenize"])
    rpc.terminate(generation_pb2.DetokenizeResponse(text="Hi"), (), grpc.StatusCode.OK, "")
    assert text.result(RESULT_SECONDS) == "Hi"
    assert list(request.token_ids) == [5, 7]


def test_embeds(client: SyncClient, channel: grpc_testing.Channel, call: Callable) -> None:
    """Vectors are in the order of the inputs."""
    embeddings = call(lambda: client.embed(EmbedRequest("m", ["a"], dimensions=2)))
    _, request, rpc = channel.take_unary_unary(EMBEDDING.methods_by_name["Embed"])
    reply = embedding_pb2.EmbedResponse(vectors=[embedding_pb2.Vector(values=[1, 0], prompt_tokens=1)])
    rpc.terminate(reply, (), grpc.StatusCode.OK, "")
    assert embeddings.result(RESULT_SECONDS)[0].values == (1.0, 0.0)
    assert (list(request.inputs), request.dimensions, request.normalize) == (["a"], 2, True)


def test_a_refused_unary_call_raises(client: SyncClient, channel: grpc_testing.Channel, call: Callable) -> None:
    """Errors of unary calls are translated too."""
    text = call(lambda: client.detokenize("m", [5]))
    _, _, rpc = channel.take_unary_unary(GENERATION.methods_by_name["Detokenize"])
    rpc.terminate(None, (), grpc.StatusCode.NOT_FOUND, "model 'm' not found")
    with pytest.raises(NotFound, match="model 'm' not found"):
        text.result(RESULT_SECONDS)


@pytest.fixture
def sync_server() -> Iterator[tuple[str, Script]]:
    """A real synchronous server on a free port that refuses once and then answers."""
    script = Script(
        streams=[
            [Refusal(grpc.StatusCode.UNAVAILABLE, "No worker is ready.")],
            [started(), delta("Hello"), finished()],
        ]
    )

    class Servicer(generation_pb2_grpc.GenerationServicer):
        def Generate(
            self, request: generation_pb2.GenerateRequest, context: grpc.ServicerContext
        ) -> Iterator[generation_pb2.GenerateResponse]:
            script.requests.append(request)
            for step in script.streams.pop(0):
                if isinstance(step, Refusal):
                    context.abort(step.code, step.message)
                yield step

    running = grpc.server(ThreadPoolExecutor(2))
    generation_pb2_grpc.add_GenerationServicer_to_server(Servicer(), running)
    embedding_pb2_grpc.add_EmbeddingServicer_to_server(embedding_pb2_grpc.EmbeddingServicer(), running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield f"127.0.0.1:{port}", script
    running.stop(None).wait()


def test_retries_on_a_real_channel(sync_server: tuple[str, Script]) -> None:
    """The service config's retries hold for the synchronous channel as well."""
    target, script = sync_server
    with SyncClient(target) as client:
        client.ready(timeout_seconds=5)
        assert client.generate(REQUEST, timeout_seconds=10).collect().text == "Hello"
    assert len(script.requests) == 2


def test_ready_gives_up(tmp_path: Path) -> None:
    """Without a server `ready` raises Unavailable that names the address."""
    with SyncClient(f"unix:{tmp_path / 'nothing'}") as client, pytest.raises(Unavailable, match="nothing"):
        client.ready(timeout_seconds=0.1)


def test_a_closed_client_says_so() -> None:
    """Every call of a closed client is an error of the clients' own, and closing again is none."""
    client = SyncClient("127.0.0.1:1")
    client.close()
    client.close()
    with pytest.raises(NotUsable, match="closed"):
        client.generate(REQUEST)
    with pytest.raises(NotUsable, match="closed"):
        client.tokenize(REQUEST)
    with pytest.raises(NotUsable, match="closed"):
        client.ready()
