"""Several choices of one request."""

from __future__ import annotations

from vllama_balancer.edge.wire.bounds import INT64_MAX
from vllama_protos.v1 import generation_pb2


def nth_choice(generation: generation_pb2.GenerateRequest, index: int) -> generation_pb2.GenerateRequest:
    """Returns a copy of a request for one of its choices, with the given seed plus its number."""
    choice = generation_pb2.GenerateRequest()
    choice.CopyFrom(generation)
    if choice.sampling.HasField("seed") and choice.sampling.seed >= 0:
        choice.sampling.seed = (choice.sampling.seed + index) & INT64_MAX
    return choice
