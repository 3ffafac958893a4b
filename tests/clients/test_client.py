"""The asyncio client against a scripted server on a real socket."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.clients.scripted_server import Pause, Refusal, Script, delta, finished, start_server, started
from vllama_clients import (
    Busy,
    Cancelled,
    ChatRequest,
    Client,
    Connection,
    DeadlineExceeded,
    EmbedRequest,
    Finished,
    GenerateRequest,
    IncompleteStream,
    InvalidRequest,
    Message,
    NotFound,
    NotUsable,
    Started,
    Tls,
    Unavailable,
    VllamaError,
)
from vllama_protos.v1 import embedding_pb2, generation_pb2

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.conftest import Server

REQUEST = GenerateRequest("m", "Hi")
UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE, "No worker is ready.", reason="NO_WORKER")


async def test_streams_events_in_order(server: Server) -> None:
    """A generation yields started, deltas, finished."""
    async with Client(server.target) as client:
        events = [event async for event in client.generate(REQUEST)]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert [event.text for event in events[1:-1]] == ["Hello", " there"]


async def test_collects_a_whole_answer(server: Server) -> None:
    """`collect` adds the deltas up."""
    async with Client(server.target) as client:
        completion = await client.chat(ChatRequest("m", [Message("user", "Hi")])).collect()
    assert completion.text == "Hello there"
    assert completion.started.worker == "worker-0"


async def test_texts_leave_the_reasoning_out(server: Server) -> None:
    """`texts` yields answer text only."""
    server.script.streams = [[started(), delta(thinking="Hm."), delta("Yes"), finished()]]
    async with Client(server.target) as client:
        assert [text async for text in client.generate(REQUEST).texts()] == ["Yes"]


async def test_chat_sends_the_conversation(server: Server) -> None:
    """The turns of a chat arrive as they were given."""
    async with Client(server.target) as client:
        await client.chat(ChatRequest("m", [Message("user", "Hi")], request_id="r1")).collect()
    request = server.script.requests[0]
    assert (request.model, request.request_id) == ("m", "r1")
    assert [(turn.role, turn.content) for turn in request.chat.messages] == [("user", "Hi")]


async def test_embeds(server: Server) -> None:
    """Vectors are in the order of the inputs."""
    server.script.reply = embedding_pb2.EmbedResponse(
        vectors=[
            embedding_pb2.Vector(values=[1.0, 0.0], prompt_tokens=2),
            embedding_pb2.Vector(values=[0.0, 1.0], prompt_tokens=3),
        ]
    )
    async with Client(server.target) as client:
        first, second = await client.embed(EmbedRequest("m", ["a", "b"]))
    assert (first.values, first.prompt_tokens) == ((1.0, 0.0), 2)
    assert (second.values, second.prompt_tokens) == ((0.0, 1.0), 3)


async def test_tokenizes(server: Server) -> None:
    """Token ids and the rendered text are returned."""
    server.script.reply = generation_pb2.TokenizeResponse(token_ids=[5, 7], text="Hi")
    async with Client(server.target) as client:
        tokens = await client.tokenize(REQUEST)
    assert (tokens.token_ids, tokens.text) == ((5, 7), "Hi")


async def test_detokenizes(server: Server) -> None:
    """Ids become text."""
    server.script.reply = generation_pb2.DetokenizeResponse(text="Hi")
    async with Client(server.target) as client:
        assert await client.detokenize("m", [5, 7]) == "Hi"
    assert list(server.script.requests[0].token_ids) == [5, 7]


async def test_leaving_the_block_cancels_the_call(server: Server) -> None:
    """Breaking out of `async with` ends the call on the server."""
    server.script.streams = [[started(), Pause()]]
    async with Client(server.target) as client:
        async with client.generate(REQUEST) as generation:
            await anext(generation)
        async with asyncio.timeout(5):
            await server.script.cancelled.wait()


async def test_cancelling_the_reader_cancels_the_call(server: Server) -> None:
    """A cancelled task ends its call and sees CancelledError."""
    server.script.streams = [[started(), Pause()]]
    reading = asyncio.Event()

    async def read(client: Client) -> None:
        generation = client.generate(REQUEST)
        await anext(generation)
        reading.set()
        await anext(generation)

    async with Client(server.target) as client:
        task = asyncio.create_task(read(client))
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await server.script.cancelled.wait()


async def test_a_cancel_elsewhere_is_an_ordinary_error(server: Server) -> None:
    """The reader of a generation that another task cancelled gets Cancelled, not CancelledError."""
    server.script.streams = [[started(), Pause()]]
    async with Client(server.target) as client:
        generation = client.generate(REQUEST)
        await anext(generation)
        generation.cancel()
        with pytest.raises(Cancelled):
            await anext(generation)


async def test_cancelling_a_unary_call_reaches_the_server(server: Server) -> None:
    """A cancelled task ends its unary call."""
    server.script.reply = Pause()
    async with Client(server.target) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.tokenize(REQUEST)
        async with asyncio.timeout(5):
            await server.script.cancelled.wait()


async def test_closing_the_client_cancels_its_calls(server: Server) -> None:
    """`close` leaves nothing running on the server."""
    server.script.streams = [[started(), Pause()]]
    client = Client(server.target)
    generation = client.generate(REQUEST)
    await anext(generation)
    await client.close()
    async with asyncio.timeout(5):
        await server.script.cancelled.wait()


async def test_a_deadline_ends_the_stream(server: Server) -> None:
    """DeadlineExceeded comes when the time-out passes, in the middle of a stream too."""
    server.script.streams = [[started(), Pause()]]
    async with Client(server.target) as client:
        with pytest.raises(DeadlineExceeded):
            await client.generate(REQUEST, timeout_seconds=0.2).collect()


async def test_the_clients_own_timeout_is_the_default(server: Server) -> None:
    """A call without a time-out takes the client's."""
    async with Client(server.target, timeout_seconds=30) as client:
        await client.generate(REQUEST).collect()
        await client.generate(REQUEST, timeout_seconds=5).collect()
    first, second = server.script.deadlines
    # The deadline travels in whole milliseconds, rounded up, hence the tolerance upwards.
    assert 25 < first < 30.1
    assert 3 < second < 5.1


async def test_retries_until_a_worker_is_there(server: Server) -> None:
    """UNAVAILABLE before the first message is tried again, unseen by the caller."""
    server.script.streams = [[UNAVAILABLE], [UNAVAILABLE], [started(), delta("Hello"), finished()]]
    async with Client(server.target) as client:
        assert (await client.generate(REQUEST).collect()).text == "Hello"
    assert len(server.script.requests) == 3


async def test_gives_up_after_the_last_attempt(server: Server) -> None:
    """Unavailable is raised when every attempt failed."""
    server.script.streams = [[UNAVAILABLE]]
    async with Client(Connection(server.target, attempts=2)) as client:
        with pytest.raises(Unavailable, match="No worker is ready"):
            await client.generate(REQUEST).collect()
    assert len(server.script.requests) == 2


async def test_one_attempt_means_no_retry(server: Server) -> None:
    """attempts=1 turns retries off."""
    server.script.streams = [[UNAVAILABLE]]
    async with Client(Connection(server.target, attempts=1)) as client:
        with pytest.raises(Unavailable):
            await client.generate(REQUEST).collect()
    assert len(server.script.requests) == 1


async def test_never_repeats_a_stream_that_has_begun(server: Server) -> None:
    """UNAVAILABLE after the first message is the caller's to see."""
    server.script.streams = [[started(), delta("Hel"), UNAVAILABLE]]
    async with Client(server.target) as client:
        generation = client.generate(REQUEST)
        with pytest.raises(Unavailable):
            async for _ in generation:
                pass
    assert len(server.script.requests) == 1


async def test_a_full_queue_is_not_retried(server: Server) -> None:
    """Busy carries the reason and the delay, after one attempt."""
    server.script.streams = [
        [Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "512 wait.", reason="QUEUE_FULL", retry_after_seconds=1.5)]
    ]
    async with Client(server.target) as client:
        with pytest.raises(Busy, match="512 wait") as caught:
            await client.generate(REQUEST).collect()
    assert (caught.value.reason, caught.value.retry_after_seconds) == ("QUEUE_FULL", 1.5)
    assert len(server.script.requests) == 1


async def test_a_wrong_field_is_named(server: Server) -> None:
    """InvalidRequest carries the field from the error's details."""
    server.script.reply = Refusal(
        grpc.StatusCode.INVALID_ARGUMENT, "sampling.top_p is 7; give 0 to 1.", "INVALID_REQUEST", "sampling.top_p"
    )
    async with Client(server.target) as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.tokenize(REQUEST)
    assert caught.value.field == "sampling.top_p"


async def test_an_unknown_model_is_not_found(server: Server) -> None:
    """NOT_FOUND becomes NotFound."""
    server.script.streams = [[Refusal(grpc.StatusCode.NOT_FOUND, "model 'x' not found", "MODEL_NOT_FOUND")]]
    async with Client(server.target) as client:
        with pytest.raises(NotFound, match="model 'x' not found"):
            await client.generate(REQUEST).collect()


@pytest.mark.parametrize("stream", [[started(), delta("Hel")], [started(), UNAVAILABLE], [started(), finished()]])
async def test_after_its_end_a_generation_is_exhausted(server: Server, stream: list) -> None:
    """Reading on after the end, or after an error, yields nothing, not the error once more."""
    server.script.streams = [stream]
    async with Client(server.target) as client:
        generation = client.generate(REQUEST)
        with suppress(VllamaError):
            async for _ in generation:
                pass
        assert [event async for event in generation] == []


async def test_a_stream_without_finished_is_incomplete(server: Server) -> None:
    """A stream that simply ends is not taken for an answer."""
    server.script.streams = [[started(), delta("Hel")]]
    async with Client(server.target) as client:
        with pytest.raises(IncompleteStream):
            await client.generate(REQUEST).collect()


async def test_events_of_a_newer_server_are_skipped(server: Server) -> None:
    """An unknown kind of event is skipped."""
    server.script.streams = [[started(), generation_pb2.GenerateResponse(), delta("Hello"), finished()]]
    async with Client(server.target) as client:
        assert (await client.generate(REQUEST).collect()).text == "Hello"


async def test_sends_the_api_key(server: Server) -> None:
    """Every call carries the key as a bearer token."""
    server.script.reply = generation_pb2.DetokenizeResponse()
    async with Client(server.target, api_key="s3cret") as client:
        await client.generate(REQUEST).collect()
        await client.detokenize("m", [1])
    assert [metadata["authorization"] for metadata in server.script.metadata] == ["Bearer s3cret"] * 2


async def test_no_key_no_header(server: Server) -> None:
    """Without a key nothing is sent."""
    async with Client(server.target) as client:
        await client.generate(REQUEST).collect()
    assert "authorization" not in server.script.metadata[0]


async def test_calls_share_one_connection(server: Server) -> None:
    """Fifty streams at once all come to their end over one channel."""
    async with Client(server.target) as client:
        completions = await asyncio.gather(*(client.generate(REQUEST).collect() for _ in range(50)))
    assert {completion.text for completion in completions} == {"Hello there"}


async def test_reaches_a_unix_socket(tmp_path: Path) -> None:
    """A worker on a unix socket is called like any other server."""
    script = Script(streams=[[started(), finished()]])
    running, _ = await start_server(script, f"unix:{tmp_path / 's'}")
    async with Client(f"unix:{tmp_path / 's'}") as client:
        await client.generate(REQUEST).collect()
    await running.stop(None)


async def test_ready_waits_for_the_server(server: Server) -> None:
    """`ready` returns once the server accepts connections."""
    async with Client(server.target) as client:
        await client.ready(timeout_seconds=5)


async def test_ready_gives_up(tmp_path: Path) -> None:
    """Without a server `ready` raises Unavailable that names the address."""
    async with Client(f"unix:{tmp_path / 'nothing'}") as client:
        with pytest.raises(Unavailable, match="nothing"):
            await client.ready(timeout_seconds=0.1)


async def test_speaks_tls(certificate: tuple[bytes, bytes]) -> None:
    """With the right authority the client speaks TLS."""
    chain, key = certificate
    script = Script(streams=[[started(), finished()]])
    running, port = await start_server(script, "127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    async with Client(f"127.0.0.1:{port}", tls=Tls(root_certificates=chain, server_name="localhost")) as client:
        await client.generate(REQUEST, timeout_seconds=10).collect()
    await running.stop(None)


async def test_refuses_a_certificate_of_someone_else(
    certificate: tuple[bytes, bytes], other_certificate: tuple[bytes, bytes]
) -> None:
    """A server with a certificate of an unknown authority is refused."""
    chain, key = certificate
    script = Script(streams=[[started(), finished()]])
    running, port = await start_server(script, "127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    tls = Tls(root_certificates=other_certificate[0], server_name="localhost")
    async with Client(Connection(f"127.0.0.1:{port}", tls, attempts=1)) as client:
        with pytest.raises(Unavailable):
            await client.generate(REQUEST, timeout_seconds=10).collect()
    assert script.requests == []
    await running.stop(None)


def test_a_key_from_a_file_may_end_with_a_newline() -> None:
    """Blanks around a key are no part of it."""
    assert Connection("127.0.0.1:1", api_key=" sk-1\n").metadata() == (("authorization", "Bearer sk-1"),)


@pytest.mark.parametrize("key", ["sk\n1", "sk-€", "sk\x7f"])
def test_a_key_that_no_header_can_carry_is_refused_at_once(key: str) -> None:
    """One sentence that does not show the key."""
    with pytest.raises(InvalidRequest, match="API key") as error:
        Connection("127.0.0.1:1", api_key=key)
    assert error.value.field == "api_key"
    assert key not in str(error.value)


async def test_a_closed_client_says_so(server: Server) -> None:
    """Every call of a closed client is an error of the clients' own, and closing again is none."""
    client = Client(server.target)
    await client.close()
    await client.close()
    with pytest.raises(NotUsable, match="closed"):
        client.generate(REQUEST)
    with pytest.raises(NotUsable, match="closed"):
        await client.embed(EmbedRequest("m", ["a"]))
    with pytest.raises(NotUsable, match="closed"):
        await client.tokenize(REQUEST)
    with pytest.raises(NotUsable, match="closed"):
        await client.detokenize("m", [1])
    with pytest.raises(NotUsable, match="closed"):
        await client.ready()


async def test_a_client_of_another_loop_says_so(server: Server) -> None:
    """A client and its generations belong to the loop in which the client was made."""
    async with Client(server.target) as client:
        generation = client.generate(REQUEST)

        async def elsewhere() -> None:
            with pytest.raises(NotUsable, match="loop"):
                client.generate(REQUEST)
            with pytest.raises(NotUsable, match="loop"):
                await client.tokenize(REQUEST)
            with pytest.raises(NotUsable, match="loop"):
                await generation.collect()

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert (await client.generate(REQUEST).collect()).text == "Hello there"


def test_a_client_outside_of_a_loop_says_so() -> None:
    """It must be made where it is used."""
    with pytest.raises(NotUsable, match="loop"):
        Client("127.0.0.1:1")
