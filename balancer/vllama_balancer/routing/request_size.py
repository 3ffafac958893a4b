"""The estimated size of a request before it is tokenized: bytes, blocks and expected tokens.

- `measure_generation`, `measure_embedding`: the size of a request.
- `Estimates`: per model, averages that are only known from finished requests: output length and bytes per token.
- `with_reply`: the blocks of a prompt and its reply, which the next turn of the conversation will contain.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vllama_balancer.routing.prefix_index import BLOCK_BYTES, Prefix, block_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vllama_protos.v1 import embedding_pb2, generation_pb2


TOKENS_PER_IMAGE = 576
"""A rough cost of an image; models differ."""


class RequestSize(NamedTuple):
    """The expected cost of a request, independent of the worker."""

    prompt_bytes: int
    """Bytes of its text; 0 for token ids."""
    prompt_tokens: int
    """Expected tokens of the input."""
    output_tokens: int
    """Expected tokens of the output."""
    prefix: Prefix
    """The input's blocks."""
    tail: bytes = b""
    """The bytes after the last whole block."""


EMPTY_SIZE = RequestSize(0, 1, 0, Prefix((), 1.0))
"""The size of a request that computes nothing."""


def measure_generation(request: generation_pb2.GenerateRequest, estimates: ModelEstimates) -> RequestSize:
    """Returns the size of a generation."""
    text = _text_of(request)
    ids = request.token_ids.ids if request.WhichOneof("input") == "token_ids" else request.context_token_ids
    images = sum(len(message.images) for message in request.chat.messages)
    tokens = int(len(text) / estimates.bytes_per_token) + len(ids) + images * TOKENS_PER_IMAGE
    # Token ids as four bytes each give the same block size as text.
    data = array("I", ids).tobytes() + text if ids else text
    keys = block_keys(data)
    prefix = Prefix(keys, tokens * BLOCK_BYTES / len(data) if data else 1.0)
    tail = data[len(keys) * BLOCK_BYTES :]
    return RequestSize(len(text), max(tokens, 1), _output_tokens(request, estimates), prefix, tail)


def measure_embedding(request: embedding_pb2.EmbedRequest, estimates: ModelEstimates) -> RequestSize:
    """Returns the size of an embedding, which generates nothing and shares no prefix."""
    size = sum(len(text.encode()) for text in request.inputs)
    return RequestSize(size, max(int(size / estimates.bytes_per_token), 1), 0, Prefix((), 1.0))


def _output_tokens(request: generation_pb2.GenerateRequest, estimates: ModelEstimates) -> int:
    limit = request.sampling.max_tokens if request.sampling.HasField("max_tokens") else -1
    expected = int(estimates.output_tokens)
    return min(limit, expected) if limit >= 0 else expected


def _text_of(request: generation_pb2.GenerateRequest) -> bytes:
    """Joins the parts of a prompt in the order in which a template would render them."""
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
    """Yields the parts of a message in the order in which a template would render them."""
    yield f"{message.role}: "
    yield message.thinking
    yield message.content
    for image in message.images:
        # Another image changes everything after it.
        yield f"[{hash(image.data):x}]"
    for call in message.tool_calls:
        yield call.name
        yield call.arguments_json
    yield "\n"


FIRST_OUTPUT_TOKENS = 128.0
"""Expected output before any request has finished."""
FIRST_BYTES_PER_TOKEN = 4.0
"""Bytes of text in a token before any prompt has been counted."""
WEIGHT = 0.05
"""Weight of the newest observation: about the last twenty requests count."""
MIN_PROMPT_BYTES = 64
"""Shorter prompts measure the chat template rather than the tokenizer."""
MIN_BYTES_PER_TOKEN, MAX_BYTES_PER_TOKEN = 1.0, 16.0
"""Limits of the average; a prompt outside them was not tokenized as it was sent."""


@dataclass(slots=True)
class ModelEstimates:
    """Moving averages of one model."""

    output_tokens: float = FIRST_OUTPUT_TOKENS
    """Generated tokens of a request."""
    bytes_per_token: float = FIRST_BYTES_PER_TOKEN
    """Bytes of prompt text in a token."""

    def finished(self, completion_tokens: int) -> None:
        """Updates the average by a request that ended by itself."""
        self.output_tokens += WEIGHT * (completion_tokens - self.output_tokens)

    def tokenized(self, prompt_bytes: int, prompt_tokens: int) -> None:
        """Updates the average by a prompt whose tokens a worker has counted."""
        if prompt_bytes >= MIN_PROMPT_BYTES and prompt_tokens:
            observed = min(max(prompt_bytes / prompt_tokens, MIN_BYTES_PER_TOKEN), MAX_BYTES_PER_TOKEN)
            self.bytes_per_token += WEIGHT * (observed - self.bytes_per_token)


@dataclass(slots=True)
class Estimates:
    """The averages of every model, by key."""

    _models: dict[str, ModelEstimates] = field(default_factory=dict)

    def of(self, key: str) -> ModelEstimates:
        """Returns a model's averages; fresh ones for a new model."""
        return self._models.setdefault(key, ModelEstimates())


def with_reply(
    request: generation_pb2.GenerateRequest, size: RequestSize, reply: generation_pb2.Message, token_ids: Sequence[int]
) -> Prefix:
    """Returns a request's blocks, continued by its reply; `reply` and `token_ids` are the same output in two forms.

    Engines cache their output like any prompt, so the reply is cut into blocks exactly as it will be when the client
    sends it back. If a client or template changes it, the prediction ends there, and so does the engine's cache.
    Reasoning ends it too: templates leave out the reasoning of earlier turns, and what follows is computed again.
    """
    keys = size.prefix.keys
    added = block_keys(size.tail + _as_sent_back(request, reply, token_ids), after=keys[-1] if keys else 0)
    return size.prefix._replace(keys=[*keys, *added])


def _as_sent_back(
    request: generation_pb2.GenerateRequest, reply: generation_pb2.Message, token_ids: Sequence[int]
) -> bytes:
    kind = request.WhichOneof("input")
    if kind == "token_ids":
        return array("I", token_ids).tobytes()
    if reply.thinking:
        return b""
    if kind == "chat":
        return "".join(message_parts(reply)).encode()
    # With a suffix or further context, the reply comes back at another position.
    return b"" if request.suffix or request.context_token_ids else reply.content.encode()
