"""Translation between the clients' types and the wire's messages."""

from __future__ import annotations

import dataclasses
import json

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from tests.clients.scripted_server import delta, finished, started
from vllama_clients import (
    ChatRequest,
    Choice,
    Delta,
    EmbedRequest,
    Finished,
    FinishReason,
    GenerateRequest,
    Grammar,
    InvalidRequest,
    JsonObject,
    JsonSchema,
    Message,
    Options,
    Regex,
    Sampling,
    ThinkLevel,
    Tool,
    ToolCall,
    ToolMode,
    Truncation,
    event_wire,
    request_wire,
)
from vllama_clients.request_wire import OPTIONAL_SAMPLING
from vllama_protos.v1 import generation_pb2

TEXT_TURN = [Message("user", "Hi")]


def test_unset_sampling_stays_unset() -> None:
    """What the caller left out is not sent, so the model's own defaults hold."""
    request = request_wire.generation_request(GenerateRequest("m", "Hi"))
    assert request.sampling.ListFields() == []


@pytest.mark.parametrize("name", OPTIONAL_SAMPLING)
def test_zero_is_sent(name: str) -> None:
    """Zero is a value of its own, not an unset one."""
    request = request_wire.generation_request(GenerateRequest("m", "Hi", Options(sampling=Sampling(**{name: 0}))))
    assert request.sampling.HasField(name)


def test_every_field_of_the_sampling_message_is_covered() -> None:
    """A new field of the wire is not forgotten here; typical_p is left out on purpose: no engine heeds it."""
    fields = {field.name for field in generation_pb2.Sampling.DESCRIPTOR.fields}
    assert fields == set(OPTIONAL_SAMPLING) | {"stop", "typical_p"}


def test_a_wrong_value_is_refused_by_name() -> None:
    """A value that the wire cannot carry names its field before anything is sent."""
    with pytest.raises(InvalidRequest, match=r"sampling\.top_k") as caught:
        request_wire.generation_request(GenerateRequest("m", "Hi", Options(sampling=Sampling(top_k=2**40))))
    assert caught.value.field == "sampling.top_k"


@given(st.one_of(st.integers(), st.text(), st.floats(), st.none(), st.lists(st.integers())))
def test_odd_values_are_sent_or_refused(value: object) -> None:
    """Whatever stands in a field, the answer is a message or InvalidRequest."""
    options = Options(priority=value, sampling=Sampling(temperature=value))  # type: ignore[arg-type]
    try:
        message = request_wire.generation_request(GenerateRequest("m", "Hi", options))
    except InvalidRequest:
        return
    assert isinstance(message, generation_pb2.GenerateRequest)


def test_token_ids_are_sent_as_they_are() -> None:
    """A prompt of ids is not text."""
    request = request_wire.generation_request(GenerateRequest("m", [1, 2, 3]))
    assert list(request.token_ids.ids) == [1, 2, 3]


def test_an_empty_prompt_is_still_a_prompt() -> None:
    """The input is set even when its text is empty."""
    assert request_wire.generation_request(GenerateRequest("m", "")).WhichOneof("input") == "prompt"


def test_a_whole_conversation() -> None:
    """Every part of a turn, and the template's other inputs, are sent."""
    request = ChatRequest(
        "m",
        [
            Message("user", "Look", images=[b"png"]),
            Message("assistant", "", thinking="Hm.", tool_calls=[ToolCall("f", '{"b":1,"a":2}', "call_1")]),
            Message("tool", "42", tool_name="f", tool_call_id="call_1"),
        ],
        tools=[Tool("f", "Does it.", {"type": "object"})],
        tool_choice="f",
        think=ThinkLevel.HIGH,
        template_switches={"enable": True, "depth": 2},
    )
    chat = request_wire.chat(request)
    assert chat.messages[0].images[0].data == b"png"
    assert chat.messages[1].thinking == "Hm."
    assert chat.messages[1].tool_calls[0].arguments_json == '{"b":1,"a":2}'
    assert (chat.messages[2].tool_name, chat.messages[2].tool_call_id) == ("f", "call_1")
    assert json.loads(chat.tools[0].parameters_json) == {"type": "object"}
    assert (chat.tool_choice.mode, chat.tool_choice.name) == (generation_pb2.TOOL_CHOICE_MODE_NAMED, "f")
    assert chat.think == generation_pb2.THINK_LEVEL_HIGH
    assert json_format.MessageToDict(chat.template_switches) == {"enable": True, "depth": 2.0}


def test_an_answer_that_has_begun_and_a_template_of_the_callers() -> None:
    """Each is sent only on request."""
    begun = [*TEXT_TURN, Message("assistant", "The sky")]
    chat = request_wire.chat(ChatRequest("m", begun, continue_last=True, template="{{ messages }}"))
    assert (chat.continue_last, chat.template) == (True, "{{ messages }}")
    plain = request_wire.chat(ChatRequest("m", TEXT_TURN))
    assert (plain.continue_last, plain.template) == (False, "")


def test_every_field_of_a_chat_is_covered() -> None:
    """A new field of the wire is not forgotten here; `template_is_stored` is the balancer's to set."""
    fields = {field.name for field in generation_pb2.Chat.DESCRIPTOR.fields} - {"template_is_stored"}
    assert fields <= {field.name for field in dataclasses.fields(ChatRequest)}


@pytest.mark.parametrize("mode", list(ToolMode))
def test_tool_modes(mode: ToolMode) -> None:
    """Each mode has its counterpart on the wire."""
    chat = request_wire.chat(ChatRequest("m", TEXT_TURN, tool_choice=mode))
    assert generation_pb2.ToolChoiceMode.Name(chat.tool_choice.mode) == f"TOOL_CHOICE_MODE_{mode.name}"


@pytest.mark.parametrize("level", [level for level in ThinkLevel if level is not ThinkLevel.DEFAULT])
def test_think_levels(level: ThinkLevel) -> None:
    """Each level has its counterpart on the wire."""
    chat = request_wire.chat(ChatRequest("m", TEXT_TURN, think=level))
    assert generation_pb2.ThinkLevel.Name(chat.think) == f"THINK_LEVEL_{level.name}"


@pytest.mark.parametrize(
    ("output_format", "kind", "value"),
    [
        (JsonObject(), "json_object", True),
        (JsonSchema({"type": "string"}), "json_schema", '{"type": "string"}'),
        (Regex("a+"), "regex", "a+"),
        (Grammar('root ::= "a"'), "grammar", 'root ::= "a"'),
        (Choice(["yes", "no"]), "choice", generation_pb2.Choice(options=["yes", "no"])),
    ],
)
def test_output_formats(output_format: object, kind: str, value: object) -> None:
    """Each kind of constraint is sent as its own."""
    options = Options(output_format=output_format)  # type: ignore[arg-type]
    message = request_wire.generation_request(GenerateRequest("m", "Hi", options)).output_format
    assert message.WhichOneof("kind") == kind
    assert getattr(message, kind) == value


def test_remaining_options() -> None:
    """Everything beside sampling and format is sent."""
    options = Options(
        top_logprobs=0,
        truncation=Truncation.DROP_OLDEST,
        session="s",
        priority=-1,
        max_context_tokens=64,
        return_prompt_token_ids=True,
    )
    request = request_wire.generation_request(GenerateRequest("m", "Hi", options, suffix="!"))
    assert (request.logprobs, request.top_logprobs) == (True, 0)
    assert request.truncation == generation_pb2.TRUNCATION_DROP_OLDEST
    assert (request.session, request.priority, request.max_context_tokens) == ("s", -1, 64)
    assert request.return_prompt_token_ids
    assert request.suffix == "!"


def test_tokenize_refuses_ids() -> None:
    """Tokens need no tokenizing."""
    with pytest.raises(InvalidRequest, match="prompt"):
        request_wire.tokenize_request(GenerateRequest("m", [1]))


def test_tokenize_takes_a_chat() -> None:
    """A chat is rendered by the server."""
    assert request_wire.tokenize_request(ChatRequest("m", TEXT_TURN)).chat.messages[0].content == "Hi"


def test_one_text_is_not_a_list_of_texts() -> None:
    """A bare text as inputs would be embedded letter by letter; it is refused."""
    with pytest.raises(InvalidRequest, match="inputs"):
        request_wire.embed_request(EmbedRequest("m", "Hello"))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (GenerateRequest("m", "p", Options(sampling=Sampling(stop="###"))), "sampling.stop"),
        (GenerateRequest("m", "p", Options(output_format=Choice("yes"))), "output_format.choice"),
        (ChatRequest("m", "hello"), "messages"),  # type: ignore[arg-type]
        (ChatRequest("m", [Message("user", "hi")], tools="search"), "tools"),  # type: ignore[arg-type]
        (ChatRequest("m", [Message("user", images=b"png")]), "messages.images"),  # type: ignore[arg-type]
        (ChatRequest("m", [Message("user", tool_calls="search")]), "messages.tool_calls"),  # type: ignore[arg-type]
        (GenerateRequest("m", b"abc"), "prompt"),
    ],
)
def test_one_text_is_no_list(request_: GenerateRequest | ChatRequest, field: str) -> None:
    """A text is a sequence of texts in Python; it is refused by one sentence that names the field and the fix."""
    with pytest.raises(InvalidRequest) as error:
        request_wire.generation_request(request_)
    assert error.value.field == field
    assert str(error.value).startswith(f"{field} ")
    assert "list" in str(error.value)


def test_what_is_no_message_is_refused() -> None:
    """A dictionary in place of a Message is an InvalidRequest, too."""
    with pytest.raises(InvalidRequest):
        request_wire.generation_request(ChatRequest("m", [{"role": "user"}]))  # type: ignore[list-item]


def test_reads_a_delta() -> None:
    """Tool calls and log probabilities come through."""
    logprob = generation_pb2.TokenLogprob(id=5, text="a", bytes=b"a", logprob=-0.5)
    event = event_wire.event(
        delta(
            "a",
            tool_calls=[generation_pb2.ToolCall(id="1", name="f", arguments_json="{}")],
            token_ids=[5],
            logprobs=[generation_pb2.TokenLogprobs(token=logprob, top=[logprob])],
        )
    )
    assert isinstance(event, Delta)
    assert event.tool_calls == (ToolCall("f", "{}", "1"),)
    assert event.token_ids == (5,)
    assert event.logprobs[0].token.logprob == event.logprobs[0].top[0].logprob == -0.5


def test_reads_finished_in_seconds() -> None:
    """Durations become seconds, counts stay counts."""
    timings = generation_pb2.Timings()
    timings.decode.FromMilliseconds(1500)
    event = event_wire.event(
        finished(
            reason=generation_pb2.FINISH_REASON_LENGTH,
            usage=generation_pb2.Usage(prompt_tokens=3, completion_tokens=4),
            timings=timings,
            migrations=1,
        )
    )
    assert isinstance(event, Finished)
    assert event.reason is FinishReason.LENGTH
    assert (event.usage.prompt_tokens, event.usage.completion_tokens) == (3, 4)
    assert (event.timings.decode_seconds, event.timings.queue_seconds) == (1.5, 0)
    assert event.migrations == 1


def test_reads_started() -> None:
    """The first event names the worker and the prompt's tokens."""
    event = event_wire.event(started("worker-3", boot_id="b", cached_prompt_tokens=2, prompt_token_ids=[1, 2, 3]))
    assert event is not None
    assert (event.worker, event.boot_id, event.prompt_token_ids) == ("worker-3", "b", (1, 2, 3))
