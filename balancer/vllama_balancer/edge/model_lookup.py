"""The model that a request names: looked up in the catalog, and its capabilities.

Error messages are Ollama's own, because tools match on them; they name the model as requested, or in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllama_balancer.errors import CapabilityMissing, ModelNotFound
from vllama_balancer.names import ModelName, parse_name
from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from vllama_balancer.gateway import Gateway, ModelEntry

_WIRE = {
    "completion": worker_pb2.CAPABILITY_COMPLETION,
    "chat": worker_pb2.CAPABILITY_CHAT,
    "tools": worker_pb2.CAPABILITY_TOOLS,
    "thinking": worker_pb2.CAPABILITY_THINKING,
    "vision": worker_pb2.CAPABILITY_VISION,
    "insert": worker_pb2.CAPABILITY_INSERT,
    "embedding": worker_pb2.CAPABILITY_EMBEDDING,
}


@dataclass(frozen=True, slots=True)
class RequestedModel:
    """A model of the catalog, with the client's spelling of its name."""

    requested: str
    """The name as requested: replies echo it."""
    name: ModelName
    """The name, parsed."""
    entry: ModelEntry
    """Its entry in the catalog."""

    def has(self, capability: str) -> bool | None:
        """Returns whether the model has a capability; None while no worker has described it."""
        if self.entry.description is None:
            return None
        return _WIRE[capability] in self.entry.description.capabilities

    def require(self, capability: str, verb: str = "chat") -> None:
        """Raises CapabilityMissing when the model is known to lack a capability.

        `verb` is what the request does ("chat", "generate"), for the message.
        """
        if self.has(capability) is False:
            raise self.missing(capability, verb)

    def missing(self, capability: str, verb: str = "chat") -> CapabilityMissing:
        if capability in ("tools", "insert", "vision"):
            text = f"{self.name.full} does not support {capability}"
        elif capability in ("completion", "chat"):
            text = f'"{self.requested}" does not support {verb}'
        elif capability == "embedding":
            text = f'"{self.requested}" does not support embeddings'
        else:
            text = f'"{self.requested}" does not support {capability or verb}'
        return CapabilityMissing(text, field=capability)


async def find_model(
    gateway: Gateway, requested: str, deadline: float | None = None, *, not_found: str = "model '{}' not found"
) -> RequestedModel:
    """Finds the model of a request; waits for one that may still be announced.

    Raises InvalidRequest for a malformed name, ModelNotFound, and the errors of `Gateway.search`. `not_found` is the
    message for a missing model; {} in it becomes the requested name.
    """
    name = parse_name(requested)
    entry = None if name.is_cloud else gateway.find(name.display) or await gateway.find_or_wait(name.display, deadline)
    if entry is None:
        raise ModelNotFound(not_found.format(requested), field="model")
    return RequestedModel(requested, name, entry)
