"""Translates catalog entries into Ollama's listings: tags, ps, and the details of show; pure.

Clients crash on missing keys here, so objects are always objects, strings are never null, and the details of a model
that no worker has described yet are "unknown".
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllama_balancer.gateway import ModelEntry

_UNKNOWN = "unknown"

_FOREVER = timedelta(days=292 * 365)
"""What Ollama shows for forever; a longer time would leave the four-digit years."""

_CAPABILITIES = {
    worker_pb2.CAPABILITY_COMPLETION: "completion",
    worker_pb2.CAPABILITY_TOOLS: "tools",
    worker_pb2.CAPABILITY_INSERT: "insert",
    worker_pb2.CAPABILITY_VISION: "vision",
    worker_pb2.CAPABILITY_EMBEDDING: "embedding",
    worker_pb2.CAPABILITY_THINKING: "thinking",
}


class Details(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model's summary; only `parent_model` may be empty."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str
    context_length: int = 0
    embedding_length: int = 0


class Tag(msgspec.Struct, frozen=True):
    """A model in /api/tags."""

    name: str
    model: str
    modified_at: datetime
    size: int
    digest: str
    details: Details
    capabilities: list[str]


class Loaded(msgspec.Struct, frozen=True):
    """A model in /api/ps."""

    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: datetime
    size_vram: int
    context_length: int
    replicas: int
    """Workers that serve it. Not in Ollama, which has one of each."""


def tags(entries: Iterable[ModelEntry]) -> list[Tag]:
    """Returns all models, newest first."""
    newest_first = sorted(entries, key=lambda entry: entry.modified_at, reverse=True)
    return [_tag(entry) for entry in newest_first]


def loaded(entries: Iterable[ModelEntry], now: datetime) -> list[Loaded]:
    """Returns the models that can answer now, those that stay longest first."""
    ready = [_loaded(entry, now) for entry in entries if entry.replicas > 0]
    return sorted(ready, key=lambda each: each.expires_at, reverse=True)


def capabilities(entry: ModelEntry) -> list[str]:
    """Returns a model's capabilities in Ollama's words."""
    known = _described(entry).capabilities
    return [word for value, word in _CAPABILITIES.items() if value in known]


def details(entry: ModelEntry, *, lengths: bool = False) -> Details:
    """Returns a model's summary; `lengths` adds those of context and embedding."""
    described = _described(entry)
    info = described.model_info
    return Details(
        parent_model="",
        format="safetensors",
        family=architecture(entry),
        families=[architecture(entry)],
        parameter_size=human_number(info.parameter_count) if info.parameter_count else _UNKNOWN,
        quantization_level=info.quantization or _UNKNOWN,
        context_length=described.context_length if lengths else 0,
        embedding_length=info.embedding_length if lengths else 0,
    )


def architecture(entry: ModelEntry) -> str:
    """Returns the family's name. Clients need the same one in `details` and `model_info` to find the lengths."""
    described = _described(entry)
    return described.model_info.architecture or ("simulated" if described.simulated else _UNKNOWN)


def model_info(entry: ModelEntry, basename: str) -> dict[str, Any]:
    """Returns show's `model_info`; the context length is the one that is served."""
    described = _described(entry)
    info, family = described.model_info, architecture(entry)
    # Some clients take the first key that contains "context_length": there must be only one.
    return {
        "general.architecture": family,
        "general.basename": basename,
        "general.parameter_count": info.parameter_count,
        f"{family}.context_length": described.context_length,
        f"{family}.embedding_length": info.embedding_length,
        f"{family}.block_count": info.block_count,
        f"{family}.attention.head_count": info.head_count,
        f"{family}.attention.head_count_kv": info.head_count_kv,
        f"{family}.vocab_size": info.vocabulary_size,
        "vllama.simulated": described.simulated,
        "vllama.device": described.device.kind or _UNKNOWN,
    }


def human_number(count: int) -> str:
    """Returns a count as Ollama shows it: "134.52M", "7.6B", "1B"."""
    for unit, suffix, digits in ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else digits}f}{suffix}"
    return str(count)


def _tag(entry: ModelEntry) -> Tag:
    return Tag(
        name=entry.name,
        model=entry.name,
        modified_at=entry.modified_at,
        size=entry.size_bytes,
        digest=entry.digest,
        details=details(entry, lengths=True),
        capabilities=capabilities(entry),
    )


def _loaded(entry: ModelEntry, now: datetime) -> Loaded:
    described = _described(entry)
    return Loaded(
        name=entry.name,
        model=entry.name,
        size=entry.size_bytes,
        digest=entry.digest,
        details=details(entry),
        expires_at=entry.expires_at or now + _FOREVER,
        size_vram=entry.size_bytes if described.device.kind == "cuda" else 0,
        context_length=described.context_length,
        replicas=entry.replicas,
    )


def _described(entry: ModelEntry) -> worker_pb2.DescribeResponse:
    return entry.description or worker_pb2.DescribeResponse()
