"""Anthropic's Python client against a whole fleet; what needs a script is in tests/edge/anthropic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anthropic
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HI: Any = [{"role": "user", "content": "Count from one to fifty, in words."}]


@pytest.fixture
def client(base_url: str) -> Iterator[anthropic.Anthropic]:
    """The client, in front of the fleet."""
    with anthropic.Anthropic(base_url=base_url, api_key="any", max_retries=0) as opened:
        yield opened


def test_a_streamed_message_says_what_a_whole_one_says(client: anthropic.Anthropic, model_name: str) -> None:
    """The stream helper's text and counts are those of the whole message."""
    settings: Any = {"model": model_name, "max_tokens": 8, "messages": HI, "system": "Be brief."}
    settings["extra_body"] = {"temperature": 0}
    whole = client.messages.create(**settings)
    with client.messages.stream(**settings) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    [block] = whole.content
    assert block.type == "text"
    assert text == block.text != ""
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (whole.usage.input_tokens, 8)


def test_tokens_are_counted_as_they_are_charged(client: anthropic.Anthropic, model_name: str) -> None:
    """count_tokens says what the message then says of itself."""
    counted = client.messages.count_tokens(model=model_name, messages=HI)
    message = client.messages.create(model=model_name, max_tokens=1, messages=HI)
    assert counted.input_tokens == message.usage.input_tokens > 0


def test_an_unknown_model_is_404(client: anthropic.Anthropic) -> None:
    """The client's own error class comes out, with an id to ask about."""
    with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found") as caught:
        client.messages.create(model="nope", max_tokens=1, messages=HI)
    body: Any = caught.value.body
    assert body["error"]["type"] == "not_found_error"
    assert body["request_id"].startswith("req_")


def test_models_are_listed_and_found(client: anthropic.Anthropic, model_name: str) -> None:
    """This client reads the same lists as OpenAI's."""
    assert model_name in [entry.id for entry in client.models.list()]
    assert client.models.retrieve(model_name).id == model_name
