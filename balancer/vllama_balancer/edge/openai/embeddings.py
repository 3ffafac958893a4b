"""/v1/embeddings: texts in; vectors out, as numbers or as base64 of little-endian float32."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.edge.wire.bounds import clamp_count
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import embedding_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of /v1/embeddings; unknown fields are ignored, null counts as absent."""

    model: str | None = None
    input: str | list[Any] | dict[str, Any] | bool | float | None = None
    encoding_format: str | None = None
    dimensions: int | None = None

    @property
    def as_base64(self) -> bool:
        """Whether the reply has vectors as base64."""
        return (self.encoding_format or "").lower() == "base64"


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """One vector."""

    object: str = "embedding"
    embedding: list[float] | str
    index: int


class EmbeddingsUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of all inputs together."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, frozen=True, kw_only=True):
    """The reply."""

    object: str = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


def to_embed_request(request: EmbeddingsRequest) -> embedding_pb2.EmbedRequest:
    """Translates a request, except for model and id. Raises InvalidRequest that names the wrong field."""
    encoding = request.encoding_format
    if encoding and encoding.lower() not in ("float", "base64"):
        message = f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64']."
        raise InvalidRequest(message, field="encoding_format")
    inputs = _inputs(request.input)
    if (request.dimensions or 0) < 0:
        raise InvalidRequest("dimensions must be 1 or more", field="dimensions")
    return embedding_pb2.EmbedRequest(inputs=inputs, truncate=True, dimensions=clamp_count(request.dimensions))


def to_embedding_list(model: str, vectors: Sequence[embedding_pb2.Vector], *, as_base64: bool) -> EmbeddingList:
    tokens = sum(vector.prompt_tokens for vector in vectors)
    encode = _to_base64 if as_base64 else _to_list
    return EmbeddingList(
        data=[Embedding(embedding=encode(vector), index=index) for index, vector in enumerate(vectors)],
        model=model,
        usage=EmbeddingsUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _inputs(value: object) -> list[str]:
    match value:
        case str() as text:
            return [text]
        case None | []:
            raise InvalidRequest("invalid input", field="input")
        case list() as texts if all(isinstance(text, str) for text in texts):
            return texts
    raise InvalidRequest("invalid input type: input must be a string or an array of strings", field="input")


def _to_list(vector: embedding_pb2.Vector) -> list[float]:
    return list(vector.values)


def _to_base64(vector: embedding_pb2.Vector) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector.values)}f", *vector.values)).decode()
