"""The parts of a large embedding: each is small for a worker, and its vectors fit into one message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_protos.v1 import embedding_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

PART_INPUTS = 256
PART_CHARACTERS = 256 * 1024


def embedding_parts(embedding: embedding_pb2.EmbedRequest) -> Iterator[embedding_pb2.EmbedRequest]:
    """Yields requests for the inputs in order, some for each; a small request is its only part."""
    part, characters = _without_inputs(embedding), 0
    for text in embedding.inputs:
        if part.inputs and (len(part.inputs) == PART_INPUTS or characters + len(text) > PART_CHARACTERS):
            yield part
            part, characters = _without_inputs(embedding), 0
        part.inputs.append(text)
        characters += len(text)
    yield part


def _without_inputs(embedding: embedding_pb2.EmbedRequest) -> embedding_pb2.EmbedRequest:
    part = embedding_pb2.EmbedRequest(truncate=embedding.truncate, dimensions=embedding.dimensions)
    if embedding.HasField("normalize"):
        part.normalize = embedding.normalize
    return part
