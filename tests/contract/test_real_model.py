"""What only a model's own weights show: answers that are constrained, measured, counted and refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import anthropic
import httpx
import ollama
import openai
import pydantic
import pytest
from langchain_ollama import ChatOllama

from tests.contract.fleets import REAL

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.parametrize("served", REAL, indirect=True)

QUESTION: Any = [{"role": "user", "content": "Describe the city of Paris."}]
GREEDY = {"temperature": 0.0, "num_predict": 64}


class Place(pydantic.BaseModel):
    """A shape that leaves a small model no way to ramble."""

    kind: Literal["city", "country"]
    big: bool


@pytest.fixture
def native(base_url: str) -> Iterator[ollama.Client]:
    """Ollama's client."""
    with ollama.Client(base_url) as opened:
        yield opened


@pytest.fixture
def v1(base_url: str) -> Iterator[openai.OpenAI]:
    """OpenAI's client."""
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="any", max_retries=0) as opened:
        yield opened


@pytest.mark.parametrize("stream", [False, True])
def test_ollamas_schema_constrains_the_answer(native: ollama.Client, model_name: str, stream: bool) -> None:
    """The text parses into the model whose schema was the format."""
    schema = Place.model_json_schema()
    if stream:
        chunks = native.chat(model_name, QUESTION, format=schema, options=GREEDY, stream=True)
        text = "".join(chunk.message.content or "" for chunk in chunks)
    else:
        text = native.chat(model_name, QUESTION, format=schema, options=GREEDY).message.content or ""
    Place.model_validate_json(text)


def test_openais_parsed_answer(v1: openai.OpenAI, model_name: str) -> None:
    """`parse` gives an object of the class."""
    completion = v1.chat.completions.parse(
        model=model_name, messages=QUESTION, response_format=Place, max_tokens=64, temperature=0
    )
    assert isinstance(completion.choices[0].message.parsed, Place)


def test_langchains_structured_output(base_url: str, model_name: str) -> None:
    """with_structured_output gives an object of the class."""
    unpooled = {"headers": {"Connection": "close"}}
    llm = ChatOllama(model=model_name, base_url=base_url, client_kwargs=unpooled, temperature=0, num_predict=64)
    assert isinstance(llm.with_structured_output(Place).invoke("Describe the city of Paris."), Place)


def test_a_schema_that_no_grammar_can_hold_is_refused(native: ollama.Client, model_name: str) -> None:
    """The refusal names the field in Ollama's words."""
    with pytest.raises(ollama.ResponseError, match="invalid format") as caught:
        native.chat(model_name, QUESTION, format={"type": "no such type"}, options=GREEDY)
    assert caught.value.status_code == 400


def test_json_mode_gives_json(native: ollama.Client, model_name: str) -> None:
    """`format: "json"` ends as one JSON object, or says that it was cut."""
    question: Any = [{"role": "user", "content": 'Say {"ok": true} as JSON and nothing else.'}]
    reply = native.chat(model_name, question, format="json", options={"temperature": 0, "num_predict": 200})
    assert reply.done_reason == "length" or isinstance(json.loads(reply.message.content or ""), dict)


def test_logprobs_are_those_of_the_chosen_tokens(v1: openai.OpenAI, model_name: str) -> None:
    """Greedy tokens are the likeliest of their rivals, and join to the text."""
    completion = v1.chat.completions.create(
        model=model_name, messages=QUESTION, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3
    )
    [choice] = completion.choices
    assert choice.logprobs is not None
    entries = choice.logprobs.content or []
    assert "".join(entry.token for entry in entries) == choice.message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == max(rival.logprob for rival in entry.top_logprobs) <= 0


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(native: ollama.Client, model_name: str) -> None:
    """Streamed pieces never hold a part of it either."""
    whole = native.chat(model_name, QUESTION, options=GREEDY).message.content or ""
    stop = whole.split()[3]
    chunks = list(native.chat(model_name, QUESTION, options={**GREEDY, "stop": [stop]}, stream=True))
    assert "".join(chunk.message.content or "" for chunk in chunks) == whole[: whole.index(stop)]
    assert chunks[-1].done_reason == "stop"


def test_counts_agree_between_the_dialects(
    native: ollama.Client, v1: openai.OpenAI, base_url: str, model_name: str
) -> None:
    """The same chat costs the same tokens and says the same, whichever API asks."""
    chat = native.chat(model_name, QUESTION, options={**GREEDY, "num_predict": 12})
    completion = v1.chat.completions.create(model=model_name, messages=QUESTION, max_tokens=12, temperature=0)
    with anthropic.Anthropic(base_url=base_url, api_key="any", max_retries=0) as client:
        message = client.messages.create(
            model=model_name, messages=QUESTION, max_tokens=12, extra_body={"temperature": 0}
        )
    assert completion.usage is not None
    assert chat.prompt_eval_count == completion.usage.prompt_tokens == message.usage.input_tokens
    [block] = message.content
    assert block.type == "text"
    assert chat.message.content == completion.choices[0].message.content == block.text


def test_what_the_model_cannot_do_is_said(native: ollama.Client, v1: openai.OpenAI, model_name: str) -> None:
    """Reasoning, pictures and vectors of a small text model are refused, each in its sentence."""
    with pytest.raises(ollama.ResponseError, match="does not support thinking"):
        native.chat(model_name, QUESTION, think=True)
    with pytest.raises(ollama.ResponseError, match="does not support vision"):
        native.chat(model_name, [{"role": "user", "content": "What?", "images": [b"picture"]}])
    with pytest.raises(openai.BadRequestError, match="does not support embeddings"):
        v1.embeddings.create(model=model_name, input="a")


def test_a_prompt_beyond_the_context_is_refused(native: ollama.Client, model_name: str) -> None:
    """One message that cannot fit is a 400 that speaks of the context length; truncation drops older ones."""
    long = "word " * 6000
    with pytest.raises(ollama.ResponseError, match="context length") as caught:
        native.chat(model_name, [{"role": "user", "content": long}])
    assert caught.value.status_code == 400
    turns: Any = [
        {"role": "user", "content": long},
        {"role": "assistant", "content": "Well."},
        {"role": "user", "content": "Name a colour."},
    ]
    reply = native.chat(model_name, turns, options={**GREEDY, "num_predict": 4})
    assert 0 < (reply.prompt_eval_count or 0) < 200


def test_similar_texts_have_near_vectors(native: ollama.Client, embedding_name: str) -> None:
    """The vectors are the model's own, not merely numbers of the right shape."""
    one, near, far = native.embed(
        embedding_name, ["A cat sits on the mat.", "A kitten lies on a rug.", "Interest rates rose again."]
    ).embeddings

    def likeness(a: Any, b: Any) -> float:
        return float(sum(x * y for x, y in zip(a, b, strict=True)))

    assert likeness(one, near) > likeness(one, far) + 0.2


def test_an_unfinished_answer_is_continued(
    native: ollama.Client, v1: openai.OpenAI, base_url: str, model_name: str
) -> None:
    """The rendered chat ends with the client's last character, and all dialects go on from there."""
    turns: Any = [
        {"role": "user", "content": "Count from one to ten in words."},
        {"role": "assistant", "content": "One, two, three, four,"},
    ]
    options = {**GREEDY, "num_predict": 8}
    question = {"model": model_name, "messages": turns, "_debug_render_only": True}
    rendered = httpx.post(f"{base_url}/api/chat", json=question).json()["_debug_info"]["rendered_template"]
    assert rendered.endswith("One, two, three, four,")
    reply = native.chat(model_name, turns, options=options)
    assert reply.message.content == native.generate(model_name, rendered, raw=True, options=options).response
    completion = v1.chat.completions.create(model=model_name, messages=turns, max_tokens=8, temperature=0)
    with anthropic.Anthropic(base_url=base_url, api_key="any", max_retries=0) as client:
        message = client.messages.create(model=model_name, messages=turns, max_tokens=8, extra_body={"temperature": 0})
    [block] = message.content
    assert block.type == "text"
    assert reply.message.content == completion.choices[0].message.content == block.text


def test_an_alias_renders_with_its_own_template(native: ollama.Client, model_name: str) -> None:
    """What create was given is what the model reads, and what show shows."""
    template = "{% for message in messages %}Q: {{ message.content }} A:{% endfor %}"
    native.create("contract-template", from_=model_name, template=template)
    try:
        assert native.show("contract-template").template == template
        own = native.chat("contract-template", QUESTION, options={**GREEDY, "num_predict": 4})
        raw = native.generate(
            model_name, "Q: Describe the city of Paris. A:", raw=True, options={**GREEDY, "num_predict": 4}
        )
        assert own.prompt_eval_count == raw.prompt_eval_count
        assert own.message.content == raw.response
        with pytest.raises(ollama.ResponseError, match=r"template.*--trust-client-templates") as caught:
            native.generate(model_name, "hi", template=template)
        assert caught.value.status_code == 400
    finally:
        native.delete("contract-template")
