"""Several answers to one request: `n` generations that differ in nothing but their seed."""

from __future__ import annotations

from vllama_balancer.edge.wire.bounds import INT64_MAX
from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2

MOST_CHOICES = 128
"""OpenAI's own limit."""


def to_choices(generation: generation_pb2.GenerateRequest, n: int | None) -> list[generation_pb2.GenerateRequest]:
    """Copies a generation `n` times; None means once. Raises InvalidRequest outside 1 to 128.

    A given seed is counted up, so that the choices differ and the whole still repeats.
    """
    count = 1 if n is None else n
    if not 1 <= count <= MOST_CHOICES:
        raise InvalidRequest(f"n must be between 1 and {MOST_CHOICES}", field="n")
    choices = [generation]
    for index in range(1, count):
        copy = generation_pb2.GenerateRequest()
        copy.CopyFrom(generation)
        if copy.sampling.HasField("seed") and copy.sampling.seed >= 0:
            copy.sampling.seed = (copy.sampling.seed + index) & INT64_MAX
        choices.append(copy)
    return choices
