"""Checks the capabilities that a generation needs, before a worker is involved.

The catalog has them, and Ollama's error messages name the model as the client did, which a worker cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_protos.v1 import generation_pb2

if TYPE_CHECKING:
    from vllama_balancer.edge.model_lookup import RequestedModel

_NOT_REASONING = (generation_pb2.THINK_LEVEL_UNSPECIFIED, generation_pb2.THINK_LEVEL_OFF)


def check_capabilities(model: RequestedModel, request: generation_pb2.GenerateRequest, *, verb: str = "chat") -> None:
    """Checks a request against its model, and turns thinking on by default for a model that has it.

    Raises CapabilityMissing for the first capability that the model is known to lack.
    """
    chat = request.chat
    model.require("completion", verb)
    if request.suffix:
        model.require("insert")
    if chat.tools:
        model.require("tools")
    if any(message.images for message in chat.messages):
        model.require("vision")
    if chat.think not in _NOT_REASONING:
        model.require("thinking")
    if chat.messages and chat.think == generation_pb2.THINK_LEVEL_UNSPECIFIED and model.has("thinking"):
        chat.think = generation_pb2.THINK_LEVEL_ON


def drop_thinking(model: RequestedModel, chat: generation_pb2.Chat) -> None:
    """Removes the think level of a chat whose model is known to have no thinking."""
    if model.has("thinking") is False:
        chat.think = generation_pb2.THINK_LEVEL_UNSPECIFIED
