"""LangChain's integration of Ollama, which always streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pydantic
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

from vllama_balancer.fake_gateway import delta, finished, started
from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from tests.contract.scripted_edge import ScriptedEdge

UNPOOLED = {"headers": {"Connection": "close"}}
"""These classes cannot be closed: without pooled connections there is nothing to close."""
CALL = generation_pb2.ToolCall(id="call_1", name="weather", arguments_json='{"city":"Kyiv"}')


class City(pydantic.BaseModel):
    """A city."""

    name: str
    people: int


@tool
def weather(city: str) -> str:
    """Tells the weather."""
    return f"rain in {city}"


def test_an_answer_has_its_counts_and_its_reason(base_url: str, model_name: str) -> None:
    """Invoke gathers the stream; the metadata comes from the last chunk. The model is validated first."""
    llm = ChatOllama(
        model=model_name,
        base_url=base_url,
        client_kwargs=UNPOOLED,
        num_predict=8,
        temperature=0,
        validate_model_on_init=True,
    )
    answer = llm.invoke("Count from one to fifty, in words.")
    assert answer.content
    assert answer.response_metadata["done_reason"] == "length"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 8


async def test_streams_join_to_the_same_text(base_url: str, model_name: str) -> None:
    """Streaming through asyncio gives the text that invoke gives."""
    llm = ChatOllama(model=model_name, base_url=base_url, client_kwargs=UNPOOLED, num_predict=8, temperature=0)
    whole = AIMessageChunk(content="")
    async for chunk in llm.astream("Count from one to fifty, in words."):
        assert isinstance(chunk, AIMessageChunk)
        whole += chunk
    assert whole.content == (await llm.ainvoke("Count from one to fifty, in words.")).content != ""


def test_plain_text_generation(base_url: str, model_name: str) -> None:
    """The older completion class works as well."""
    llm = OllamaLLM(model=model_name, base_url=base_url, client_kwargs=UNPOOLED, num_predict=8, temperature=0)
    assert (
        llm.invoke("Count from one to fifty, in words.")
        == "".join(llm.stream("Count from one to fifty, in words."))
        != ""
    )


def test_vectors(base_url: str, embedding_name: str) -> None:
    """Documents and queries are embedded."""
    embeddings = OllamaEmbeddings(model=embedding_name, base_url=base_url, client_kwargs=UNPOOLED)
    vectors = embeddings.embed_documents(["a", "b"])
    assert len(vectors) == 2
    assert embeddings.embed_query("a") == pytest.approx(vectors[0])


def test_bound_tools_are_called_and_answered(scripted: ScriptedEdge) -> None:
    """A bound tool is called with parsed arguments, and its result goes back by name and id."""
    scripted.gateway.play(started(), delta(tool_calls=[CALL]), finished())
    llm = ChatOllama(model="able", base_url=scripted.url, client_kwargs=UNPOOLED).bind_tools([weather])
    question = HumanMessage("Weather in Kyiv?")
    asked = llm.invoke([question])
    assert isinstance(asked.tool_calls, list)
    [call] = asked.tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Kyiv"})
    llm.invoke([question, asked, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])])
    turns = scripted.gateway.requests[1].chat.messages
    assert [turn.role for turn in turns] == ["user", "assistant", "tool"]
    assert turns[2].content == "rain in Kyiv"


def test_structured_output(scripted: ScriptedEdge) -> None:
    """with_structured_output gives the pydantic object."""
    scripted.gateway.play(started(), delta('{"name":"Kyiv",'), delta('"people":3}'), finished())
    llm = ChatOllama(model="plain", base_url=scripted.url, client_kwargs=UNPOOLED).with_structured_output(City)
    assert llm.invoke("Which?") == City(name="Kyiv", people=3)


def test_reasoning_is_kept_apart(scripted: ScriptedEdge) -> None:
    """reasoning=True asks for it, and finds it beside the content."""
    scripted.gateway.play(started(), delta(thinking="Hm."), delta("Yes"), finished())
    answer = ChatOllama(model="able", base_url=scripted.url, client_kwargs=UNPOOLED, reasoning=True).invoke("Well?")
    assert (answer.content, answer.additional_kwargs["reasoning_content"]) == ("Yes", "Hm.")
    assert scripted.gateway.requests[0].chat.think == generation_pb2.THINK_LEVEL_ON
