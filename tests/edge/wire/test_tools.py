"""Tools become messages of the protos."""

from __future__ import annotations

import pytest

from vllama_balancer.edge.wire.tools import to_tool, to_tool_call, to_tool_choice
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2


def test_parameters_keep_the_order_of_their_keys() -> None:
    """Templates print schemas, so the order of keys is part of the prompt."""
    tool = to_tool("f", None, {"b": 1, "a": {"z": 1, "c": []}}, "tools[0]")
    assert tool.parameters_json == '{"b":1,"a":{"z":1,"c":[]}}'


@pytest.mark.parametrize("arguments", ["", "  ", None])
def test_a_call_without_arguments_has_an_empty_object(arguments: str | None) -> None:
    """An empty string counts as no arguments."""
    assert to_tool_call("c", "f", arguments, "x").arguments_json == "{}"


@pytest.mark.parametrize("arguments", ["[1]", "nonsense", '"text"', "[" * 5000])
def test_arguments_must_be_an_object(arguments: str) -> None:
    """Anything but a JSON object is refused by name."""
    with pytest.raises(InvalidRequest, match=r"invalid tool call arguments: x\.arguments"):
        to_tool_call("c", "f", arguments, "x")


def test_a_named_choice_must_be_among_the_tools() -> None:
    """A choice of a function that was not offered is refused."""
    tools = [generation_pb2.Tool(name="f")]
    choice = to_tool_choice(None, "f", tools)
    assert choice is not None
    assert choice.name == "f"
    with pytest.raises(InvalidRequest, match="tool_choice names 'g'"):
        to_tool_choice(None, "g", tools)


def test_a_demand_needs_tools() -> None:
    """`required` without tools cannot be met; `auto` and `none` can."""
    assert to_tool_choice("auto", None, []) is not None
    with pytest.raises(InvalidRequest, match="needs tools"):
        to_tool_choice("required", None, [])
    with pytest.raises(InvalidRequest, match="invalid tool_choice: 'maybe'"):
        to_tool_choice("maybe", None, [])
