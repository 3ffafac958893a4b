"""Reasoning and tool calls come out of token streams, whole and the same however the stream is cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoTokenizer
from vllm.parser import ParserManager

from tests.server.vllm_adapter.driving import chat_of
from vllama_protos.v1.generation_pb2 import Tool
from vllama_server.vllm_adapter.chat import render_request
from vllama_server.vllm_adapter.detokenizer import DecodeOptions, Detokenizer
from vllama_server.vllm_adapter.output_parser import Assembler, Output, OutputParser

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WEATHER = Tool(
    name="get_weather",
    description="Looks the weather up.",
    parameters_json='{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}},"required":["city"]}',
)
TIME = Tool(name="get_time", description="Tells the time.", parameters_json='{"type":"object","properties":{}}')

HERMES_CALLS = (
    "Let me look.\n<tool_call>\n"
    '{"name": "get_weather", "arguments": {"city": "Zürich", "days": 3}}\n</tool_call>\n<tool_call>\n'
    '{"name": "get_time", "arguments": {}}\n</tool_call>'
)
LLAMA_CALL = '{"name": "get_weather", "parameters": {"city": "Zürich", "days": 3}}'
THOUGHT = "Paris is in France.\n</think>\n\nThe capital is Paris."


@pytest.fixture(scope="module")
def tokenizer(model_directory: Path) -> Any:
    """The embedded model's tokenizer, taught the marks of the families under test."""
    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|python_tag|>"]})
    return tokenizer


@pytest.fixture
def assembler(tokenizer: Any) -> Callable[..., Assembler]:
    """Makes an assembler with the named parsers."""

    def make(tool_parser: str = "", reasoning_parser: str = "", tools: tuple[Tool, ...] = (WEATHER, TIME)) -> Assembler:
        parser_class = ParserManager.get_parser(
            tool_parser_name=tool_parser or None,
            reasoning_parser_name=reasoning_parser or None,
            enable_auto_tools=bool(tool_parser),
            tokenizer=tokenizer,
        )
        chat = chat_of(("user", "What is the weather?"), tools=tools)
        request = render_request(chat, chat.messages, has_tool_parser=bool(tool_parser))
        prompt = tokenizer.encode("What is the weather?<think>\n" if reasoning_parser else "What is the weather?")
        parser = OutputParser(parser_class(tokenizer, request.tools), request, prompt)
        return Assembler(Detokenizer(tokenizer, "r", prompt, DecodeOptions()), parser)

    return make


def merged(outputs: list[Output]) -> tuple[str, str, list[tuple[str, Any]]]:
    """Puts outputs together: text, thinking, calls with parsed arguments."""
    text = "".join(part for output in outputs for part in output.text)
    thinking = "".join(part for output in outputs for part in output.thinking)
    calls = [(call.name, json.loads(call.arguments_json)) for output in outputs for call in output.tool_calls]
    return text, thinking, calls


def feed(assembler: Assembler, token_ids: list[int], size: int) -> list[Output]:
    """Feeds tokens in pieces of a size, the last of which ends the generation."""
    return [
        assembler.add(token_ids[start : start + size], ends=start + size >= len(token_ids))
        for start in range(0, len(token_ids), size)
    ]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_hermes_calls_come_whole(tokenizer: Any, assembler: Callable[..., Assembler], size: int) -> None:
    """Two calls after some text, however many tokens arrive at once."""
    made = assembler(tool_parser="hermes")
    text, thinking, calls = merged(feed(made, tokenizer.encode(HERMES_CALLS), size))
    assert text.strip() == "Let me look."
    assert thinking == ""
    assert calls == [("get_weather", {"city": "Zürich", "days": 3}), ("get_time", {})]
    assert made.called_tools


def test_llama_calls_come_whole(tokenizer: Any, assembler: Callable[..., Assembler]) -> None:
    """Llama 3 writes a bare JSON object."""
    text, _, calls = merged(feed(assembler(tool_parser="llama3_json"), tokenizer.encode(LLAMA_CALL), 1))
    assert (text, calls) == ("", [("get_weather", {"city": "Zürich", "days": 3})])


def test_a_call_cut_by_the_limit_is_left_out(tokenizer: Any, assembler: Callable[..., Assembler]) -> None:
    """Half a call must not be run."""
    cut = tokenizer.encode(HERMES_CALLS.split(', "days"')[0])
    made = assembler(tool_parser="hermes")
    _, _, calls = merged(feed(made, cut, 1))
    assert calls == []
    assert not made.called_tools


def test_a_call_comes_as_soon_as_the_next_begins(tokenizer: Any, assembler: Callable[..., Assembler]) -> None:
    """The first is not kept until the end."""
    outputs = feed(assembler(tool_parser="hermes"), tokenizer.encode(HERMES_CALLS), 1)
    first = next(index for index, output in enumerate(outputs) if output.tool_calls)
    assert first < len(outputs) - 1


@pytest.mark.parametrize("parser", ["qwen3", "deepseek_r1"])
def test_reasoning_is_told_from_the_answer(tokenizer: Any, assembler: Callable[..., Assembler], parser: str) -> None:
    """What precedes the closing mark is thinking; the mark itself is neither."""
    made = assembler(reasoning_parser=parser, tools=())
    text, thinking, calls = merged(feed(made, tokenizer.encode(THOUGHT), 1))
    assert (text.strip(), thinking.strip(), calls) == ("The capital is Paris.", "Paris is in France.", [])


def test_reasoning_then_a_call(tokenizer: Any, assembler: Callable[..., Assembler]) -> None:
    """Both parsers of a family work on one stream."""
    stream = "I need the weather.\n</think>\n\n" + HERMES_CALLS
    made = assembler(tool_parser="hermes", reasoning_parser="qwen3")
    text, thinking, calls = merged(feed(made, tokenizer.encode(stream), 1))
    assert thinking.strip() == "I need the weather."
    assert text.strip() == "Let me look."
    assert [name for name, _ in calls] == ["get_weather", "get_time"]


@pytest.mark.parametrize("stream", [HERMES_CALLS, THOUGHT + HERMES_CALLS], ids=["calls", "thinking and calls"])
def test_parsers_carry_their_state_over_a_seam(
    tokenizer: Any, assembler: Callable[..., Assembler], stream: str
) -> None:
    """Cut after any token: the replay leaves out exactly what was delivered."""
    reasoning = "qwen3" if "</think>" in stream else ""
    token_ids = tokenizer.encode(stream)
    whole = feed(assembler("hermes", reasoning), token_ids, 1)
    for cut in range(1, len(token_ids)):
        resumed = assembler("hermes", reasoning)
        resumed.add(token_ids[:cut])
        assert merged(feed(resumed, token_ids[cut:], 1)) == merged(whole[cut:])
