"""Embeddings: /api/embed for many texts, /api/embeddings for one; pure translations."""

from __future__ import annotations

from typing import Any

import msgspec

from vllama_balancer.edge.wire.bounds import INT32_MAX
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import embedding_pb2


class EmbedBody(msgspec.Struct, frozen=True):
    """POST /api/embed."""

    model: str | None = None
    input: Any = None
    truncate: bool | None = None
    dimensions: int | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None


class EmbeddingsBody(msgspec.Struct, frozen=True):
    """POST /api/embeddings, the older call."""

    model: str | None = None
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None


class EmbedReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One vector per input, in order; durations are nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0


class EmbeddingsReply(msgspec.Struct, frozen=True):
    """A single vector."""

    embedding: list[float]


def inputs_of(body: EmbedBody) -> list[str]:
    """Reads the texts; no text, or an empty one alone, is none. Raises InvalidRequest for what is no text."""
    given = body.input
    if given is None or given == "":
        return []
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise InvalidRequest("invalid input type", field="input")
    return given


def to_embed_request(body: EmbedBody, inputs: list[str]) -> embedding_pb2.EmbedRequest:
    """Translates a body: vectors of length 1, over-long inputs cut unless the client forbids it."""
    dimensions = body.dimensions or 0
    if not 0 <= dimensions <= INT32_MAX:
        raise InvalidRequest("dimensions must be 0 or more", field="dimensions")
    return embedding_pb2.EmbedRequest(
        inputs=inputs, truncate=body.truncate is not False, dimensions=dimensions, normalize=True
    )


def to_embed_reply(requested: str, reply: embedding_pb2.EmbedResponse, total_ns: int) -> EmbedReply:
    """Translates the vectors."""
    return EmbedReply(
        model=requested,
        embeddings=[list(vector.values) for vector in reply.vectors],
        total_duration=max(1, total_ns),
        load_duration=1,
        prompt_eval_count=max(1, sum(vector.prompt_tokens for vector in reply.vectors)),
    )
