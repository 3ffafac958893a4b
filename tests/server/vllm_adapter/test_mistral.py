"""Mistral's own tokenizers, which are none of Hugging Face's: bytes, text and tool calls come out of them as well.

Their vocabularies come along with the package that reads them, so nothing is downloaded.
"""

from __future__ import annotations

import json
import shutil
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import pytest
from vllm.parser import ParserManager
from vllm.tokenizers.mistral import MistralTokenizer

from tests.server.vllm_adapter.driving import chat_of
from vllama_protos.v1.generation_pb2 import Tool
from vllama_server.vllm_adapter.chat import render_request
from vllama_server.vllm_adapter.detokenizer import DecodeOptions, Detokenizer, Vocabulary
from vllama_server.vllm_adapter.output_parser import Assembler, OutputParser

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "Grüezi, 世界 ☃!"
CALL = '[{"name": "get_weather", "arguments": {"city": "Zürich"}}]'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer of Mistral's "tekken" kind, from a directory as a model's."""
    directory: Path = tmp_path_factory.mktemp("mistral")
    with as_file(files("mistral_common") / "data" / "tekken_240911.json") as vocabulary:
        shutil.copy(vocabulary, directory / "tekken.json")
    return MistralTokenizer.from_pretrained(str(directory))


def test_tokens_are_known_as_bytes(tokenizer: Any) -> None:
    """Also where a token is a part of a character."""
    vocabulary = Vocabulary(tokenizer)
    token_ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert b"".join(vocabulary.token_bytes(token_id) for token_id in token_ids).decode() == TEXT
    assert token_ids[0] in vocabulary
    assert 10**7 not in vocabulary


def test_text_comes_out_token_by_token(tokenizer: Any) -> None:
    """No character is split."""
    token_ids = tokenizer.encode(TEXT, add_special_tokens=False)
    text = Detokenizer(tokenizer, "r", [1], DecodeOptions())
    pieces = [text.add(token_id, ends=token_id == token_ids[-1])[0] for token_id in token_ids]
    assert "".join(pieces) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)


def test_tool_calls_come_whole(tokenizer: Any) -> None:
    """Their mark is a token that has no text."""
    parser_class = ParserManager.get_parser(
        tool_parser_name="mistral", reasoning_parser_name=None, enable_auto_tools=True, tokenizer=tokenizer
    )
    chat = chat_of(("user", "Weather?"), tools=[Tool(name="get_weather", description="Looks it up.")])
    request = render_request(chat, chat.messages, has_tool_parser=True)
    parser = OutputParser(parser_class(tokenizer, request.tools), request, [1])
    options = DecodeOptions(skip_special_tokens=False)
    assembler = Assembler(Detokenizer(tokenizer, "r", [1], options), parser)
    token_ids = [tokenizer.get_vocab()["[TOOL_CALLS]"], *tokenizer.encode(CALL, add_special_tokens=False)]
    outputs = [assembler.add([token_id], ends=number == len(token_ids)) for number, token_id in enumerate(token_ids, 1)]
    calls = [call for output in outputs for call in output.tool_calls]
    assert [(call.name, json.loads(call.arguments_json)) for call in calls] == [("get_weather", {"city": "Zürich"})]
    assert "".join(part for output in outputs for part in output.text).strip() == ""
