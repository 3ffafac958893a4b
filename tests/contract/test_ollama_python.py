"""The official Python client of Ollama, synchronous and asyncio."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import ollama
import pydantic
import pytest

from vllama_balancer.errors import EngineFault, QueueFull, WorkerLost
from vllama_balancer.fake_gateway import delta, finished, started
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.scripted_edge import ScriptedEdge

HI: Any = [{"role": "user", "content": "Count from one to fifty, in words."}]
SHORT = {"num_predict": 8, "temperature": 0.0}
CALL = generation_pb2.ToolCall(id="call_1", name="weather", arguments_json='{"city":"Kyiv"}')


class City(pydantic.BaseModel):
    """What structured output is parsed into."""

    name: str
    people: int


def weather(city: str) -> str:
    """Tells the weather.

    Args:
        city: Where.
    """
    return f"rain in {city}"


@pytest.fixture
def client(base_url: str) -> Iterator[ollama.Client]:
    """The client, in front of the fleet."""
    with ollama.Client(base_url) as opened:
        yield opened


def test_models_are_listed_and_shown(client: ollama.Client, model_name: str) -> None:
    """The lists parse, and a shown model has what clients read without asking."""
    assert model_name in [entry.model for entry in client.list().models]
    assert model_name in [entry.model for entry in client.ps().models]
    shown = client.show(model_name)
    assert "completion" in (shown.capabilities or [])
    assert shown.modelinfo is not None
    architecture = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{architecture}.context_length"] > 0


def test_a_streamed_chat_says_what_a_whole_one_says(client: ollama.Client, model_name: str) -> None:
    """Chunks join to the text, and only the last is done and counted."""
    whole = client.chat(model_name, HI, options=SHORT)
    chunks = list(client.chat(model_name, HI, options=SHORT, stream=True))
    assert whole.message.content
    assert "".join(chunk.message.content or "" for chunk in chunks) == whole.message.content
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    for metrics in (whole, chunks[-1]):
        assert metrics.eval_count == 8
        assert metrics.done_reason == "length"
        assert metrics.total_duration >= metrics.prompt_eval_duration + metrics.eval_duration > 0


def test_a_generation_goes_on_from_its_context(client: ollama.Client, model_name: str) -> None:
    """The context of one reply is taken by the next, and makes its prompt longer."""
    first = client.generate(model_name, "Count from one to fifty, in words.", options=SHORT)
    second = client.generate(model_name, "Again.", context=first.context, options=SHORT)
    assert first.response
    assert (second.prompt_eval_count or 0) > (first.prompt_eval_count or 0)


def test_raw_generations_and_streams(client: ollama.Client, model_name: str) -> None:
    """A raw prompt streams too, and its reply has no context."""
    chunks = list(client.generate(model_name, "Once upon", raw=True, stream=True, options=SHORT))
    assert "".join(chunk.response for chunk in chunks)
    assert chunks[-1].context is None


async def test_many_asyncio_chats_at_once(base_url: str, model_name: str) -> None:
    """The asyncio client streams many chats side by side, each to its end."""
    client = ollama.AsyncClient(base_url)

    async def chat(number: int) -> bool:
        messages: Any = [{"role": "user", "content": f"Count to {number}."}]
        stream = await client.chat(model_name, messages, options=SHORT, stream=True)
        ends = [chunk.done async for chunk in stream]
        return ends == [False] * (len(ends) - 1) + [True]

    try:
        assert all(await asyncio.gather(*(chat(number) for number in range(50))))
    finally:
        await client.close()


def test_loading_and_unloading_by_an_empty_prompt(client: ollama.Client, model_name: str) -> None:
    """Without a prompt a model is loaded or unloaded, and generates again afterwards."""
    assert client.generate(model_name, "").done_reason == "load"
    assert client.generate(model_name, "", keep_alive=0).done_reason == "unload"
    assert client.generate(model_name, "Count from one to fifty, in words.", options=SHORT).response


def test_an_alias_lives_from_create_to_delete(client: ollama.Client, model_name: str) -> None:
    """An alias is created, copied, listed, shown, used and deleted; a deleted one is not found."""
    client.create("contract-alias", from_=model_name, system="Be brief.", parameters={"temperature": 0.0})
    client.copy("contract-alias", "contract-copy")
    try:
        listed = {entry.model for entry in client.list().models}
        assert {"contract-alias:latest", "contract-copy:latest"} <= listed
        shown = client.show("contract-copy")
        assert "temperature" in (shown.parameters or "")
        assert client.chat("contract-copy", HI, options=SHORT).message.content
    finally:
        for name in ("contract-alias", "contract-copy"):
            client.delete(name)
    with pytest.raises(ollama.ResponseError, match="model 'contract-alias:latest' not found") as caught:
        client.show("contract-alias")
    assert caught.value.status_code == 404


def test_a_served_model_can_be_pulled(client: ollama.Client, model_name: str) -> None:
    """Clients that pull before they chat see success at the end; an unknown name says that it does not exist."""
    assert [progress.status for progress in client.pull(model_name, stream=True)][-1] == "success"
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        list(client.pull("no-such-model-anywhere", stream=True))


def test_vectors_come_one_per_input(client: ollama.Client, embedding_name: str) -> None:
    """A batch of texts has as many vectors, each of length 1; the old call has one vector."""
    batch = client.embed(embedding_name, ["a", "b"])
    assert len(batch.embeddings) == 2
    for vector in batch.embeddings:
        assert sum(value * value for value in vector) == pytest.approx(1.0, abs=1e-3)
    assert len(client.embeddings(embedding_name, "a").embedding) == len(batch.embeddings[0])


def test_an_unknown_model_is_404(client: ollama.Client) -> None:
    """The client's own error has the status and the sentence that tools look for."""
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
        client.chat("nope", HI)
    assert caught.value.status_code == 404


def test_wrong_options_are_400(client: ollama.Client, model_name: str) -> None:
    """An option of a wrong type is refused by name."""
    wrong: Any = {"temperature": "hot"}
    with pytest.raises(ollama.ResponseError, match='option "temperature" must be of type float32') as caught:
        client.chat(model_name, HI, options=wrong)
    assert caught.value.status_code == 400


def test_tools_are_offered_called_and_answered(scripted: ScriptedEdge) -> None:
    """A Python function becomes a tool; its call comes back whole, and its result goes out again."""
    scripted.gateway.play(started(), delta(tool_calls=[CALL]), finished())
    with ollama.Client(scripted.url) as client:
        reply = client.chat("able", HI, tools=[weather])
        [call] = reply.message.tool_calls or []
        assert (call.function.name, call.function.arguments) == ("weather", {"city": "Kyiv"})
        result: Any = {"role": "tool", "tool_name": "weather", "content": weather(**call.function.arguments)}
        client.chat("able", [*HI, reply.message, result], tools=[weather])
    first, second = scripted.gateway.requests
    assert json.loads(first.chat.tools[0].parameters_json)["required"] == ["city"]
    assert [turn.role for turn in second.chat.messages] == ["user", "assistant", "tool"]
    assert json.loads(second.chat.messages[1].tool_calls[0].arguments_json) == {"city": "Kyiv"}


def test_structured_output_fits_its_schema(scripted: ScriptedEdge) -> None:
    """A pydantic schema is a constraint on the wire, and the reply parses into the model."""
    scripted.gateway.play(started(), delta('{"name":"Kyiv","people":3}'), finished())
    with ollama.Client(scripted.url) as client:
        reply = client.chat("plain", HI, format=City.model_json_schema())
    assert City.model_validate_json(reply.message.content or "") == City(name="Kyiv", people=3)
    assert "people" in scripted.gateway.requests[0].output_format.json_schema


def test_thinking_streams_before_the_answer(scripted: ScriptedEdge) -> None:
    """Reasoning has a field of its own, and comes first."""
    scripted.gateway.play(started(), delta(thinking="Hm."), delta("Yes"), finished())
    with ollama.Client(scripted.url) as client:
        chunks = list(client.chat("able", HI, think=True, stream=True))
    assert [(chunk.message.thinking, chunk.message.content) for chunk in chunks[:2]] == [("Hm.", ""), (None, "Yes")]


def test_pictures_go_out_in_order(scripted: ScriptedEdge) -> None:
    """Bytes given to the client arrive as the same bytes."""
    with ollama.Client(scripted.url) as client:
        client.chat("able", [{"role": "user", "content": "what?", "images": [b"one", b"two"]}])
    assert [image.data for image in scripted.gateway.requests[0].chat.messages[0].images] == [b"one", b"two"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (QueueFull("full"), 503, "server busy, please try again"),
        (EngineFault("the engine failed"), 500, "the engine failed"),
    ],
)
def test_failures_before_the_first_chunk_have_a_status(
    scripted: ScriptedEdge, error: Exception, status: int, message: str, stream: bool
) -> None:
    """Streaming or not, what fails early is a ResponseError with its status."""
    scripted.gateway.play(error)
    with ollama.Client(scripted.url) as client:
        with pytest.raises(ollama.ResponseError, match=message) as caught:
            list(client.chat("plain", HI, stream=stream))  # type: ignore[call-overload]
        assert caught.value.status_code == status


def test_a_failure_within_a_stream_is_raised(scripted: ScriptedEdge) -> None:
    """What was said arrives, then the client raises; the stream does not just end."""
    scripted.gateway.play(started(), delta("Hel"), WorkerLost("the worker is gone"))
    seen = ""
    with ollama.Client(scripted.url) as client, pytest.raises(ollama.ResponseError, match="the worker is gone"):
        for chunk in client.chat("plain", HI, stream=True):
            seen += chunk.message.content or ""
    assert seen == "Hel"


def test_unusual_line_breaks_do_not_cut_a_line(scripted: ScriptedEdge) -> None:
    """Characters at which the client splits lines arrive within the text."""
    text = "a\u2028b\u2029c\u0085d\u001ce\x0cf\rg"
    scripted.gateway.play(started(), delta(text), finished())
    with ollama.Client(scripted.url) as client:
        assert "".join(chunk.message.content or "" for chunk in client.chat("plain", HI, stream=True)) == text
