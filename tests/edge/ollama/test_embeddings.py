"""Texts become vectors, in order, in both calls."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from vllama_balancer.errors import InvalidRequest, NoWorker
from vllama_balancer.fake_gateway import FakeGateway, model
from vllama_protos.v1 import embedding_pb2, worker_pb2

if TYPE_CHECKING:
    from tests.edge.conftest import Serve
    from vllama_balancer.gateway import Call, ModelEntry


class RefusingGateway(FakeGateway):
    """Refuses every text as too long."""

    async def embed(self, request: embedding_pb2.EmbedRequest, call: Call) -> embedding_pb2.EmbedResponse:
        """Raises."""
        raise InvalidRequest("9 tokens, 8 fit", reason="CONTEXT_TOO_LONG")


@pytest.fixture
def gateway() -> FakeGateway:
    """An embedding model and a chat model."""
    return FakeGateway(model("e:latest", capabilities=[worker_pb2.CAPABILITY_EMBEDDING]), model())


async def post(http: aiohttp.ClientSession, path: str, **body: Any) -> tuple[int, Any]:
    """Posts JSON."""
    async with http.post(path, json=body) as reply:
        return reply.status, await reply.json()


async def test_one_vector_per_text(http: aiohttp.ClientSession, gateway: FakeGateway) -> None:
    """A string is one text; metrics are there and whole."""
    status, reply = await post(http, "/api/embed", model="e", input=["a b", "", "abc"])
    assert status == 200
    assert reply["model"] == "e"
    assert reply["embeddings"] == [[3.0, 1.0], [0.0, 1.0], [3.0, 1.0]]
    assert reply["prompt_eval_count"] == 3
    assert reply["total_duration"] >= reply["load_duration"] >= 1
    assert (await post(http, "/api/embed", model="E", input="a"))[1]["embeddings"] == [[1.0, 1.0]]
    assert gateway.embed_requests[0] == embedding_pb2.EmbedRequest(
        model="e:latest",
        request_id=gateway.embed_requests[0].request_id,
        inputs=["a b", "", "abc"],
        truncate=True,
        normalize=True,
    )


async def test_dimensions_and_truncation_go_to_the_worker(http: aiohttp.ClientSession, gateway: FakeGateway) -> None:
    """The worker truncates."""
    await post(http, "/api/embed", model="e", input="a", dimensions=8, truncate=False)
    assert (gateway.embed_requests[0].dimensions, gateway.embed_requests[0].truncate) == (8, False)


@pytest.mark.parametrize("body", [{}, {"input": None}, {"input": ""}, {"input": []}])
async def test_no_text_is_no_vector(http: aiohttp.ClientSession, body: dict[str, Any]) -> None:
    """An empty list, not an error."""
    status, reply = await post(http, "/api/embed", model="e", **body)
    assert (status, reply) == (200, {"model": "e", "embeddings": []})


@pytest.mark.parametrize("given", [1, True, {}, [1], ["a", None], [["a"]]])
async def test_what_is_no_text_is_refused(http: aiohttp.ClientSession, given: object) -> None:
    """Ollama's words."""
    assert await post(http, "/api/embed", model="e", input=given) == (400, {"error": "invalid input type"})


async def test_the_old_call_gives_one_vector_as_it_is(http: aiohttp.ClientSession, gateway: FakeGateway) -> None:
    """Not normalised by the server."""
    assert await post(http, "/api/embeddings", model="e", prompt="ab") == (200, {"embedding": [2.0, 1.0]})
    assert gateway.embed_requests[0].normalize is False
    assert await post(http, "/api/embeddings", model="e") == (200, {"embedding": []})


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("/api/embed", "", (404, "model '' not found")),
        ("/api/embeddings", "", (400, "model is required")),
        ("/api/embed", "No", (404, 'model "No" not found, try pulling it first')),
        ("/api/embeddings", "No", (404, 'model "No" not found, try pulling it first')),
        ("/api/embed", "a b", (400, "invalid model name")),
        ("/api/embed", "smollm2:135m", (400, '"smollm2:135m" does not support embeddings')),
    ],
)
async def test_refusals(http: aiohttp.ClientSession, path: str, name: str, expected: tuple[int, str]) -> None:
    """The sentences of each call."""
    status, reply = await post(http, path, model=name, input="a", prompt="a")
    assert (status, reply["error"]) == expected


async def test_a_text_that_does_not_fit_is_refused_in_ollamas_words(serve: Any) -> None:
    """Only with truncate false."""
    entry = model("e:latest", capabilities=[worker_pb2.CAPABILITY_EMBEDDING])
    async with serve(RefusingGateway(entry)) as http:
        status, reply = await post(http, "/api/embed", model="e", input="a", truncate=False)
    assert status == 400
    assert reply["error"].startswith("the input length exceeds the context length")


class CountingGateway(FakeGateway):
    """Counts the calls that run, and may hold them."""

    def __init__(self, *models: ModelEntry) -> None:
        super().__init__(*models)
        self.embedding = self.most_embedding = 0
        self.fails_after: int | None = None
        self.dimensions = 2
        self.holding: asyncio.Event | None = None

    async def embed(self, request: embedding_pb2.EmbedRequest, call: Call) -> embedding_pb2.EmbedResponse:
        """Takes a turn of the event loop."""
        self.embedding += 1
        self.most_embedding = max(self.embedding, self.most_embedding)
        try:
            self.waiting.set()
            await (self.holding.wait() if self.holding is not None else asyncio.sleep(0))
            if self.fails_after is not None and len(self.embed_requests) >= self.fails_after:
                raise NoWorker("gone")
            reply = await super().embed(request, call)
            for vector in reply.vectors:
                vector.values.extend([0.5] * (self.dimensions - 2))
            return reply
        finally:
            self.embedding -= 1


@pytest.fixture
def counting() -> CountingGateway:
    """An embedding model on two workers."""
    return CountingGateway(model("e:latest", capabilities=[worker_pb2.CAPABILITY_EMBEDDING], replicas=2))


async def test_many_texts_become_several_calls(serve: Serve, counting: CountingGateway) -> None:
    """In order, side by side on the workers, and never all at once."""
    texts = ["x" * (number % 7) for number in range(5_000)]
    async with serve(counting) as http:
        status, reply = await post(http, "/api/embed", model="e", input=texts)
    assert status == 200
    assert [vector[0] for vector in reply["embeddings"]] == [float(len(text)) for text in texts]
    assert reply["prompt_eval_count"] == sum(1 for text in texts if text)
    assert max(len(request.inputs) for request in counting.embed_requests) == 256
    assert counting.most_embedding == 4


async def test_long_texts_become_several_calls(serve: Serve, counting: CountingGateway) -> None:
    """Parts are bounded in bytes, too."""
    async with serve(counting) as http:
        await post(http, "/api/embed", model="e", input=["x" * 100_000] * 10)
    assert [len(request.inputs) for request in counting.embed_requests] == [2] * 5


async def test_a_failure_of_any_part_is_an_error(serve: Serve, counting: CountingGateway) -> None:
    """As long as the reply is short, it has a status of its own."""
    counting.fails_after = 3
    async with serve(counting) as http:
        status, reply = await post(http, "/api/embed", model="e", input=["x"] * 5_000)
    assert (status, reply) == (503, {"error": "gone"})
    assert counting.embedding == 0


async def test_a_long_reply_is_sent_as_it_comes(serve: Serve, counting: CountingGateway) -> None:
    """It is one JSON object all the same."""
    counting.dimensions = 1_000
    async with serve(counting) as http, http.post("/api/embed", json={"model": "e", "input": ["x"] * 6_000}) as reply:
        assert reply.headers["Transfer-Encoding"] == "chunked"
        assert len((await reply.json())["embeddings"]) == 6_000


async def test_a_failure_within_a_long_reply_breaks_it(serve: Serve, counting: CountingGateway) -> None:
    """A client must not take the beginning for all."""
    counting.dimensions, counting.fails_after = 1_000, 20
    async with serve(counting) as http:
        with pytest.raises(aiohttp.ClientError):
            async with http.post("/api/embed", json={"model": "e", "input": ["x"] * 6_000}) as reply:
                await reply.read()
    assert counting.embedding == 0


async def test_work_ends_with_its_client(serve: Serve, counting: CountingGateway) -> None:
    """No further part is begun, and those that run are cancelled."""
    counting.holding = asyncio.Event()
    async with serve(counting) as http:
        request = asyncio.create_task(post(http, "/api/embed", model="e", input=["x"] * 5_000))
        await counting.waiting.wait()
        request.cancel()
        async with asyncio.timeout(10):
            while counting.embedding:
                await asyncio.sleep(0.01)
    assert counting.embed_requests == []
