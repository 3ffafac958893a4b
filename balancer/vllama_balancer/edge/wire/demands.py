"""What a generation demands of its model, checked before a worker is asked.

The catalog knows the answer, and Ollama's words for a refusal name the model as the client did,
which a worker could not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from vllama_balancer.edge.requested import RequestedModel

_NOT_REASONING = (generation_pb2.THINK_LEVEL_UNSPECIFIED, generation_pb2.THINK_LEVEL_OFF)


def meet_demands(model: RequestedModel, request: generation_pb2.GenerateRequest, *, verb: str = "chat") -> None:
    """Checks a request against its model, and lets a model that can reason do so unless told otherwise.

    Raises CapabilityMissing for the first thing that the model is known to lack.
    """
    model.require("completion", verb)
    if request.suffix:
        model.require("insert")
    if request.chat.tools:
        model.require("tools")
    if any(message.images for message in request.chat.messages):
        model.require("vision")
    if request.chat.think not in _NOT_REASONING:
        model.require("thinking")
    if request.HasField("chat") and request.chat.think == generation_pb2.THINK_LEVEL_UNSPECIFIED:
        request.chat.think = _default_think(model)


def _default_think(model: RequestedModel) -> generation_pb2.ThinkLevel:
    return generation_pb2.THINK_LEVEL_ON if model.has("thinking") else generation_pb2.THINK_LEVEL_UNSPECIFIED
