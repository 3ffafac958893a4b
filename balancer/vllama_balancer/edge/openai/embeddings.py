"""/v1/embeddings: texts in; vectors out, as numbers or as base64 of little-endian float32."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec

from vllama_balancer.edge.body import encode_json
from vllama_balancer.edge.wire.bounds import clamp_count
from vllama_balancer.errors import InvalidRequest
from vllama_protos.budgets import DEFAULT_LIMITS
from vllama_protos.v1 import embedding_pb2


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
    if len(inputs) > DEFAULT_LIMITS.embedding_inputs:
        message = f"input has {len(inputs)} texts and may have {DEFAULT_LIMITS.embedding_inputs}: use several requests"
        raise InvalidRequest(message, field="input")
    if (request.dimensions or 0) < 0:
        raise InvalidRequest("dimensions must be 1 or more", field="dimensions")
    return embedding_pb2.EmbedRequest(inputs=inputs, truncate=True, dimensions=clamp_count(request.dimensions))


def encode_embedding(index: int, vector: embedding_pb2.Vector, *, as_base64: bool) -> bytes:
    """Returns one element of the reply's `data`."""
    encode = _to_base64 if as_base64 else _to_list
    return encode_json(Embedding(embedding=encode(vector), index=index))


def embedding_frame(model: str, tokens: int) -> tuple[bytes, bytes]:
    """Returns what is before and after the elements of `data`."""
    usage = EmbeddingsUsage(prompt_tokens=tokens, total_tokens=tokens)
    before, data, after = encode_json(EmbeddingList(data=[], model=model, usage=usage)).partition(b'"data":[')
    return before + data, after


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
