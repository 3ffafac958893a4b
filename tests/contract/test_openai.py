"""OpenAI's Python client against a whole fleet; what needs a script is in tests/edge/openai."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.scripted_edge import ScriptedEdge

HI: Any = [{"role": "user", "content": "Count from one to fifty, in words."}]


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    """The client, in front of the fleet."""
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="any", max_retries=0) as opened:
        yield opened


def test_a_streamed_chat_says_what_a_whole_one_says(client: openai.OpenAI, model_name: str) -> None:
    """Greedy chunks join to the greedy text, and both count alike."""
    whole = client.chat.completions.create(model=model_name, messages=HI, max_tokens=8, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model=model_name,
            messages=HI,
            max_tokens=8,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8


def test_only_the_newer_limit_is_enough(client: openai.OpenAI, model_name: str) -> None:
    """max_completion_tokens alone limits the answer."""
    completion = client.chat.completions.create(model=model_name, messages=HI, max_completion_tokens=3)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 3


def test_no_reasoning_is_always_accepted(client: openai.OpenAI, model_name: str) -> None:
    """A request to a model without thinking needs no other fields."""
    completion = client.chat.completions.create(model=model_name, messages=HI, max_tokens=3, reasoning_effort="none")
    assert completion.choices[0].message.content


def test_a_seed_repeats_itself(client: openai.OpenAI, model_name: str) -> None:
    """The same seed gives the same answers, choice by choice."""

    def ask() -> list[str | None]:
        completion = client.chat.completions.create(model=model_name, messages=HI, max_tokens=6, seed=7, n=2)
        return [choice.message.content for choice in completion.choices]

    assert ask() == ask()


def test_completions_stream_too(client: openai.OpenAI, model_name: str) -> None:
    """A streamed completion joins to the whole one."""
    whole = client.completions.create(
        model=model_name, prompt="Count from one to fifty, in words.", max_tokens=8, temperature=0
    )
    chunks = client.completions.create(
        model=model_name, prompt="Count from one to fifty, in words.", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text != ""


def test_responses_stream_through_the_helper(client: openai.OpenAI, model_name: str) -> None:
    """The stream helper reaches the final response, whose text is what was streamed."""
    with client.responses.stream(
        model=model_name, input="Count from one to fifty, in words.", max_output_tokens=16, temperature=0
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        response = stream.get_final_response()
    assert response.output_text == text != ""
    assert response.status == "completed"


def test_models_are_listed_and_found(client: openai.OpenAI, model_name: str) -> None:
    """The fleet's model is in the list, and can be asked for."""
    assert model_name in [entry.id for entry in client.models.list()]
    assert client.models.retrieve(model_name).id == model_name
    with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
        client.models.retrieve("nope")


def test_vectors_come_one_per_input(client: openai.OpenAI, embedding_name: str) -> None:
    """The client's own base64 and plain numbers are the same vectors."""
    packed = client.embeddings.create(model=embedding_name, input=["a", "b"])
    listed = client.embeddings.create(model=embedding_name, input=["a", "b"], encoding_format="float")
    assert len(packed.data) == 2
    assert packed.data[1].embedding == pytest.approx(listed.data[1].embedding)


def test_a_text_model_does_not_embed(scripted: ScriptedEdge) -> None:
    """Embeddings of a model that generates are refused in a sentence."""
    with (
        openai.OpenAI(base_url=f"{scripted.url}/v1", api_key="any", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match='"plain" does not support embeddings'),
    ):
        client.embeddings.create(model="plain", input="a")


def test_an_unknown_model_is_404(client: openai.OpenAI) -> None:
    """The client's own error class comes out."""
    with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
        client.chat.completions.create(model="nope", messages=HI)


async def test_fifty_streams_at_once(base_url: str, model_name: str) -> None:
    """Fifty streams of one model all reach their end."""
    async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="any", max_retries=0) as client:

        async def chat(number: int) -> str | None:
            messages: Any = [{"role": "user", "content": f"Count to {number}."}]
            stream = await client.chat.completions.create(
                model=model_name, messages=messages, max_tokens=8, stream=True
            )
            return [chunk.choices[0].finish_reason async for chunk in stream][-1]

        reasons = await asyncio.gather(*(chat(number) for number in range(50)))
        # A real model is done early with the smallest numbers.
        assert set(reasons) <= {"length", "stop"}
