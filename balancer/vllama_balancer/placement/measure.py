"""Sizes up a request before anything has tokenized it: its text as bytes, blocks and expected tokens."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from vllama_balancer.placement.prefix_belief import BLOCK_BYTES, Prefix, block_keys

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllama_balancer.placement.estimates import ModelEstimates
    from vllama_protos.v1 import embedding_pb2, generation_pb2

TOKENS_PER_IMAGE = 576
"""What a picture costs, roughly; models differ and none is asked."""


class Size(NamedTuple):
    """What a request will probably cost, wherever it runs."""

    prompt_bytes: int
    """Bytes of its text; 0 for token ids."""
    prompt_tokens: int
    """Expected tokens of the input."""
    output_tokens: int
    """Expected tokens of the output."""
    prefix: Prefix
    """The input's blocks."""
    tail: bytes = b""
    """What comes after the last whole block."""


NOTHING = Size(0, 1, 0, Prefix((), 1.0))
"""The size of a request that computes nothing."""


def measure_generation(request: generation_pb2.GenerateRequest, estimates: ModelEstimates) -> Size:
    """Sizes up a generation."""
    text = _text_of(request)
    ids = request.token_ids.ids if request.WhichOneof("input") == "token_ids" else request.context_token_ids
    images = sum(len(message.images) for message in request.chat.messages)
    tokens = int(len(text) / estimates.bytes_per_token) + len(ids) + images * TOKENS_PER_IMAGE
    # Token ids as four bytes each give the same block size as text.
    data = array("I", ids).tobytes() + text if ids else text
    keys = block_keys(data)
    prefix = Prefix(keys, tokens * BLOCK_BYTES / len(data) if data else 1.0)
    tail = data[len(keys) * BLOCK_BYTES :]
    return Size(len(text), max(tokens, 1), _output_tokens(request, estimates), prefix, tail)


def measure_embedding(request: embedding_pb2.EmbedRequest, estimates: ModelEstimates) -> Size:
    """Sizes up an embedding, which generates nothing and shares no prefix."""
    size = sum(len(text.encode()) for text in request.inputs)
    return Size(size, max(int(size / estimates.bytes_per_token), 1), 0, Prefix((), 1.0))


def _output_tokens(request: generation_pb2.GenerateRequest, estimates: ModelEstimates) -> int:
    limit = request.sampling.max_tokens if request.sampling.HasField("max_tokens") else -1
    expected = int(estimates.output_tokens)
    return min(limit, expected) if limit >= 0 else expected


def _text_of(request: generation_pb2.GenerateRequest) -> bytes:
    """Joins whatever the prompt is rendered from, in the order in which a template would show it."""
    if request.WhichOneof("input") != "chat":
        return (request.prompt + request.suffix).encode()
    return "".join(_chat_parts(request.chat)).encode()


def _chat_parts(chat: generation_pb2.Chat) -> Iterable[str]:
    for tool in chat.tools:
        yield tool.name
        yield tool.description
        yield tool.parameters_json
    for message in chat.messages:
        yield from message_parts(message)


def message_parts(message: generation_pb2.Message) -> Iterable[str]:
    """Takes a message apart in the order in which a template would show it."""
    yield f"{message.role}: "
    yield message.thinking
    yield message.content
    for image in message.images:
        # A picture that differs makes all that follows differ.
        yield f"[{hash(image.data):x}]"
    for call in message.tool_calls:
        yield call.name
        yield call.arguments_json
    yield "\n"
