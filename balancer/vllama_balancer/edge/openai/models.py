"""/v1/models: the catalog in OpenAI's words; Anthropic's client reads the same shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vllama_balancer.names import parse_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllama_balancer.gateway import ModelEntry


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model."""

    id: str
    object: str = "model"
    created: int
    owned_by: str


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All models, in the catalog's order."""

    object: str = "list"
    data: list[Model]


def to_model(entry: ModelEntry, model_id: str) -> Model:
    """Describes a model under the id that the client used."""
    return Model(id=model_id, created=int(entry.modified_at.timestamp()), owned_by=parse_name(entry.name).namespace)


def to_model_list(entries: Iterable[ModelEntry]) -> ModelList:
    """Lists models under their display names."""
    return ModelList(data=[to_model(entry, entry.name) for entry in entries])
