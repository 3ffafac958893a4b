"""Texts become vectors, in order, in both calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from vllama_balancer.errors import InvalidRequest
from vllama_balancer.fake_gateway import FakeGateway, model
from vllama_protos.v1 import embedding_pb2, worker_pb2

if TYPE_CHECKING:
    import aiohttp

    from vllama_balancer.gateway import Call


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
