"""gpt-oss uses OpenAI's harmony format: its chats are written and its answers read by channel, not by text.

The format's vocabulary comes along with the package that reads it, so nothing is downloaded.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast
from vllm.entrypoints.openai.parser.harmony_utils import get_encoding
from vllm.renderers.online_renderer import OnlineRenderer

from tests.server.vllm_adapter.driving import chat_of, request_for
from vllama_protos.v1 import generation_pb2 as pb
from vllama_protos.v1 import worker_pb2
from vllama_server.vllm_adapter.chat import render_request
from vllama_server.vllm_adapter.detokenizer import DecodeOptions, Detokenizer, Vocabulary
from vllama_server.vllm_adapter.model_description import load_families, traits_of
from vllama_server.vllm_adapter.output_parser import Assembler, OutputParser
from vllama_server.vllm_adapter.prompts import PromptRenderer, Rendered
from vllama_server.vllm_adapter.template_renderer import TemplateRenderer

WEATHER = pb.Tool(
    name="get_weather",
    description="Looks it up.",
    parameters_json='{"type":"object","properties":{"city":{"type":"string"}}}',
)
CHAT = chat_of(("system", "Be brief."), ("user", "Weather in Zürich?"), tools=[WEATHER])
CALL = (
    "<|channel|>analysis<|message|>I must look.<|end|>"
    "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city": "Zürich"}<|call|>'
)
ANSWER = (
    "<|channel|>analysis<|message|>It is known.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Zürich: sunny.<|return|>"
)


def ids_of(text: str) -> list[int]:
    """Tokens of a text with its marks."""
    token_ids: list[int] = get_encoding().encode(text, allowed_special="all")
    return token_ids


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A tokenizer with the tokens of these texts and the model's ids of them."""
    encoding = get_encoding()
    known = {encoding.decode([token_id]): token_id for token_id in ids_of(CALL + ANSWER)}
    made = Tokenizer(models.WordLevel(known, unk_token="."))
    made.add_special_tokens([AddedToken(text, special=True) for text in known if text.startswith("<|")])
    return PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.fixture(scope="module")
def online(tokenizer: Any) -> OnlineRenderer:
    """The renderer of vLLM for a gpt-oss model, with the parsers that our table gives it."""
    traits = traits_of(load_families(), "gpt_oss", ["openai/gpt-oss-20b"], "", {})
    config = SimpleNamespace(hf_config=SimpleNamespace(model_type="gpt_oss"), model="openai/gpt-oss-20b")
    renderer = SimpleNamespace(tokenizer=tokenizer, get_tokenizer=lambda: tokenizer)
    return OnlineRenderer(
        config, renderer, request_logger=None, chat_template=None, chat_template_content_format="auto",
        enable_auto_tools=True, tool_parser=traits.tool_parser, reasoning_parser=traits.reasoning_parser,
    )  # fmt: skip


async def rendered(online: OnlineRenderer, chat: pb.Chat) -> Rendered:
    """The prompt of a chat."""
    prompts = PromptRenderer(
        online=online,
        renderer=online.renderer,
        model_config=online.model_config,
        vocabulary=range(201_088),  # type: ignore[arg-type]  # all of them
        traits=traits_of(load_families(), "gpt_oss", [""], "", {}),
        capabilities=worker_pb2.Capability.values(),
        client_templates=TemplateRenderer(),
        stored_templates=TemplateRenderer(),
    )
    return await prompts.render(request_for(chat), longest=100_000)


def assembler(online: OnlineRenderer, tokenizer: Any) -> Assembler:
    """Reads the answer to the chat."""
    request = render_request(CHAT, CHAT.messages, has_tool_parser=True)
    parser = OutputParser(online.parser(tokenizer, request.tools), request, [1])
    return Assembler(Detokenizer(tokenizer, "r", [1], DecodeOptions(skip_special_tokens=False)), parser)


def merged(made: Assembler, token_ids: list[int]) -> tuple[str, str, list[tuple[str, Any]]]:
    """Feeds tokens one by one, the last of which ends the generation: text, thinking, calls."""
    outputs = [made.add([token_id], ends=number == len(token_ids)) for number, token_id in enumerate(token_ids, 1)]
    text = "".join(part for output in outputs for part in output.text)
    thinking = "".join(part for output in outputs for part in output.thinking)
    return text, thinking, [(c.name, json.loads(c.arguments_json)) for output in outputs for c in output.tool_calls]


async def test_a_chat_is_written_in_channels(online: OnlineRenderer) -> None:
    """Instructions and tools are the developer's, effort the system's, and it is the assistant's turn."""
    chat = pb.Chat(think=pb.THINK_LEVEL_HIGH)
    chat.MergeFrom(CHAT)
    prompt = await rendered(online, chat)
    text = get_encoding().decode(prompt.token_ids)
    assert text.startswith("<|start|>system<|message|>")
    assert "Reasoning: high" in text
    assert "Be brief." in text
    assert "type get_weather" in text
    assert text.endswith("<|start|>user<|message|>Weather in Zürich?<|end|><|start|>assistant")


def test_thinking_and_the_answer_are_separated(online: OnlineRenderer, tokenizer: Any) -> None:
    """By their channels; no mark is seen in either."""
    assert merged(assembler(online, tokenizer), ids_of(ANSWER)) == ("Zürich: sunny.", "It is known.", [])


def test_a_call_comes_whole(online: OnlineRenderer, tokenizer: Any) -> None:
    """After its thinking, with parsed arguments."""
    made = assembler(online, tokenizer)
    assert merged(made, ids_of(CALL)) == ("", "I must look.", [("get_weather", {"city": "Zürich"})])
    assert made.called_tools


@pytest.mark.parametrize("stream", [CALL, ANSWER], ids=["call", "answer"])
def test_channels_carry_over_a_seam(online: OnlineRenderer, tokenizer: Any, stream: str) -> None:
    """Cut after any token: what follows the delivered ones is what would have followed."""
    token_ids = ids_of(stream)
    for cut in range(1, len(token_ids)):
        whole, resumed = assembler(online, tokenizer), assembler(online, tokenizer)
        whole.add(token_ids[:cut])
        for token_id in token_ids[:cut]:
            resumed.add([token_id])
        assert merged(resumed, token_ids[cut:]) == merged(whole, token_ids[cut:])


def test_its_tokens_are_known(tokenizer: Any) -> None:
    """The marks as they are written."""
    vocabulary = Vocabulary(tokenizer)
    assert b"".join(vocabulary.token_bytes(token_id) for token_id in ids_of(ANSWER)).decode() == ANSWER
