"""Budgets of a request: what is at a limit passes, what is beyond names its field, and no message breaks the check."""

from __future__ import annotations

import json

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from vllama_protos.budgets import (
    DEFAULT_LIMITS,
    KIB,
    MIB,
    OverBudget,
    RequestLimits,
    check_detokenization,
    check_embedding,
    check_generation,
    check_tokenization,
)
from vllama_protos.v1 import embedding_pb2
from vllama_protos.v1 import generation_pb2 as pb


def chat(*messages: pb.Message, **fields: object) -> pb.GenerateRequest:
    """Returns a chat."""
    return pb.GenerateRequest(chat=pb.Chat(messages=messages or [pb.Message(role="user", content="hi")], **fields))


def tool(schema: object = None, name: str = "f") -> pb.Tool:
    """Returns a tool with these parameters."""
    return pb.Tool(name=name, parameters_json="" if schema is None else json.dumps(schema))


def nested(levels: int) -> str:
    """Returns arrays within one another as JSON."""
    return "[" * levels + "]" * levels


def schema(text: str) -> pb.GenerateRequest:
    """Returns a request for output by a JSON schema."""
    return pb.GenerateRequest(prompt="hi", output_format=pb.OutputFormat(json_schema=text))


def refused(request: pb.GenerateRequest, **options: int) -> str:
    """Returns the field that is over its budget."""
    with pytest.raises(OverBudget) as caught:
        check_generation(request, **options)
    assert caught.value.field in str(caught.value) or caught.value.field == "n"
    return caught.value.field


def test_an_ordinary_request_passes() -> None:
    """A coding agent's first request: a long system text, some hundred tools, a history with calls."""
    call = pb.ToolCall(name="f", arguments_json=json.dumps({"text": "[" * 20_000}))
    history = [pb.Message(role="user", content="x" * MIB), pb.Message(role="assistant", tool_calls=[call])] * 3
    check_generation(chat(*history, tools=[tool({"type": "object", "properties": {"a": {}}})] * 600))


def test_text_is_bounded_and_pictures_are_taken_out() -> None:
    """Eight mebibytes of text are too many; thirty of pictures beside them are not."""
    picture = pb.Image(data=b"x" * 30 * MIB)
    check_generation(chat(pb.Message(role="user", content="x" * MIB, images=[picture])))
    assert refused(chat(pb.Message(role="user", content="x" * 8 * MIB))) == "chat"
    assert refused(pb.GenerateRequest(prompt="x" * 8 * MIB)) == "prompt"
    assert refused(chat(pb.Message(role="user", images=[picture, picture]))) == "chat"


def test_choices_multiply_the_bytes() -> None:
    """The more bytes, the fewer choices; one choice of what passes always passes."""
    check_generation(pb.GenerateRequest(prompt="x" * 200 * KIB), choices=128)
    assert refused(pb.GenerateRequest(prompt="x" * MIB), choices=128) == "n"
    with pytest.raises(OverBudget, match="ask for 31 at most"):
        check_generation(pb.GenerateRequest(prompt="x" * MIB), choices=32)


def test_token_ids_are_bounded() -> None:
    """In every field that has some."""
    few = RequestLimits(token_ids=3)
    for request, field in (
        (pb.GenerateRequest(token_ids=pb.TokenIds(ids=range(4))), "token_ids"),
        (pb.GenerateRequest(context_token_ids=range(4)), "context_token_ids"),
        (pb.GenerateRequest(resume_token_ids=range(4)), "resume_token_ids"),
    ):
        with pytest.raises(OverBudget, match=field):
            check_generation(request, few)
    with pytest.raises(OverBudget, match="token_ids"):
        check_detokenization(pb.DetokenizeRequest(token_ids=range(4)), few)


def test_names_are_bounded() -> None:
    """They are kept as keys."""
    check_generation(pb.GenerateRequest(model="m" * 1024, session="s" * 1024, prompt="hi"))
    assert refused(pb.GenerateRequest(model="é" * 513, prompt="hi")) == "model"
    assert refused(pb.GenerateRequest(session="s" * 1025, prompt="hi")) == "session"


def test_turns_are_bounded() -> None:
    """Each costs the worker far more than its bytes."""
    assert refused(chat(*[pb.Message()] * 10_001)) == "chat.messages"


def test_switches_of_the_template_are_bounded() -> None:
    """They are variables, not text."""
    request = chat()
    request.chat.template_switches.update({"a": ["b" * 1_000] * 140})
    assert refused(request) == "chat.template_switches"


def test_tools_are_text_of_the_prompt() -> None:
    """Far more of them pass than can be compiled."""
    check_generation(chat(tools=[tool({"description": "x" * 1_900})] * 1_024))
    assert refused(chat(tools=[tool()] * 1_025)) == "chat.tools"
    assert refused(chat(tools=[tool({"description": "x" * MIB})] * 2)) == "chat.tools"


@pytest.mark.parametrize(
    "parameters", [{"description": "x" * 130 * KIB}, {"enum": list(range(1_001))}], ids=["bytes", "values"]
)
def test_forced_tools_are_compiled(parameters: object) -> None:
    """Only the one that tool_choice names, or all where some call is required."""
    large = tool(parameters, "large")
    check_generation(chat(tools=[large]))
    check_generation(chat(tools=[large, tool()], tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name="f")))
    for choice in (
        pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED),
        pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NAMED, name="large"),
    ):
        assert refused(chat(tools=[large, tool()], tool_choice=choice)) == "chat.tools"


def test_what_is_compiled_is_bounded() -> None:
    """In bytes, and in values of enums or choices, wherever they are in a schema."""
    check_generation(schema(json.dumps({"enum": list(range(1_000))})))
    halves = {"properties": {"a": {"enum": list(range(500))}, "b": {"items": [{"enum": list(range(501))}]}}}
    assert refused(schema(json.dumps(halves))) == "output_format.json_schema"
    assert refused(schema('{"\\u0065num": [' + "1," * 1_000 + "1]}")) == "output_format.json_schema"
    assert refused(schema(json.dumps({"description": "x" * 128 * KIB}))) == "output_format.json_schema"
    for kind in ("regex", "grammar"):
        large = pb.OutputFormat(**{kind: "x" * 128 * KIB})
        assert refused(pb.GenerateRequest(prompt="hi", output_format=large)) == f"output_format.{kind}"
    for options in (["x"] * 1_001, ["x" * KIB] * 128):
        choice = pb.OutputFormat(choice=pb.Choice(options=options))
        assert refused(pb.GenerateRequest(prompt="hi", output_format=choice)) == "output_format.choice"
    check_generation(pb.GenerateRequest(output_format=pb.OutputFormat(choice=pb.Choice(options=["x"] * 1_000))))


def test_nesting_is_bounded() -> None:
    """In every field that holds JSON, a regex or a grammar; brackets inside of strings do not nest."""
    check_generation(schema(json.dumps({"const": "[{" * 1_000})))
    check_generation(schema(nested(100)))
    assert refused(schema(nested(101))) == "output_format.json_schema"
    assert refused(schema("[" * 101)) == "output_format.json_schema"
    assert refused(chat(tools=[pb.Tool(name="f", parameters_json=nested(101))])) == "chat.tools[0].parameters_json"
    calls = [pb.ToolCall(name="f"), pb.ToolCall(name="f", arguments_json=nested(101))]
    turns = [pb.Message(role="user"), pb.Message(role="assistant", tool_calls=calls)]
    assert refused(chat(*turns)) == "chat.messages[1].tool_calls[1].arguments_json"
    for kind in ("regex", "grammar"):
        deep = pb.OutputFormat(**{kind: "(a[" * 251})
        assert refused(pb.GenerateRequest(prompt="hi", output_format=deep)) == f"output_format.{kind}"


def test_parts_of_json_are_bounded_over_all_fields() -> None:
    """Many texts that are cheap alone are not cheap together."""
    calls = [pb.ToolCall(name="f", arguments_json="[" + "[]," * 100_000 + "1]")] * 4
    assert refused(chat(pb.Message(role="assistant", tool_calls=calls))).startswith("chat.messages[0].tool_calls[")


def test_tokenizations_have_the_same_budgets() -> None:
    """Their input is the same."""
    for request in (
        pb.TokenizeRequest(prompt="x" * 8 * MIB),
        pb.TokenizeRequest(chat=pb.Chat(tools=[tool()] * 1_025)),
        pb.TokenizeRequest(model="m" * 1_025),
    ):
        with pytest.raises(OverBudget):
            check_tokenization(request)


def test_embeddings_are_bounded() -> None:
    """In inputs and in bytes."""
    check_embedding(embedding_pb2.EmbedRequest(inputs=["x"] * 2_048))
    for inputs in (["x"] * 2_049, ["x" * 4 * MIB] * 2):
        with pytest.raises(OverBudget, match="inputs"):
            check_embedding(embedding_pb2.EmbedRequest(inputs=inputs))


@given(st.binary(max_size=300))
def test_the_checks_are_total(encoded: bytes) -> None:
    """Whatever parses is checked, and nothing but OverBudget is raised."""
    for kind, check in (
        (pb.GenerateRequest, check_generation),
        (pb.TokenizeRequest, check_tokenization),
        (pb.DetokenizeRequest, check_detokenization),
        (embedding_pb2.EmbedRequest, check_embedding),
    ):
        request = kind()
        try:
            request.MergeFromString(encoded)
        except DecodeError:
            continue
        check(request, DEFAULT_LIMITS)


@given(st.text(max_size=200), st.text(max_size=200))
def test_texts_that_are_no_json_pass(first: str, second: str) -> None:
    """Validation refuses them later, with a message of its own."""
    format_ = pb.OutputFormat(json_schema=first)
    required = pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED)
    request = chat(tools=[pb.Tool(name="f", parameters_json=second)], tool_choice=required)
    request.output_format.CopyFrom(format_)
    check_generation(request)
