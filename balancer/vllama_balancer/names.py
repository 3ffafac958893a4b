"""Model names: grammar, comparison and display, as in Ollama.

A name is `[scheme://][host/][namespace/]model[:tag]`; what is left out has a default, so several
spellings are one model. Spelling is kept for display, and ignored when names are compared. A
missing tag means "latest", never any tag.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from vllama_balancer.errors import InvalidRequest
from vllama_protos.errors import reason_text
from vllama_protos.v1.errors_pb2 import ErrorReason

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL_OR_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")

_LOCAL = ":local"
INVALID_NAME = reason_text(ErrorReason.ERROR_REASON_INVALID_MODEL_NAME)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A complete name, spelled as it was given; `key` is what to compare."""

    host: str
    """Registry: "registry.ollama.ai", "hf.co"."""
    namespace: str
    """Owner within the registry."""
    model: str
    """The model itself."""
    tag: str
    """Variant of the model, after the colon."""

    @property
    def full(self) -> str:
        """All four parts: "registry.ollama.ai/library/smollm2:135m"."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def display(self) -> str:
        """The shortest form, always with the tag: "smollm2:135m", "org/repo:latest"."""
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """Equal for all spellings of one model."""
        return self.full.lower()

    @property
    def is_cloud(self) -> bool:
        """True if the tag names a model hosted by Ollama, which cannot be served here."""
        return _is_cloud(self.tag)


def parse_name(text: str) -> ModelName:
    """Parses a name as a request gives it; blanks around it and a `:local` suffix are dropped.

    Raises InvalidRequest with reason INVALID_MODEL_NAME when the text breaks the grammar.
    """
    name = _split(_without_local(text.strip()))
    well_formed = (
        _HOST.fullmatch(name.host)
        and _NAMESPACE.fullmatch(name.namespace)
        and _MODEL_OR_TAG.fullmatch(name.model)
        and _MODEL_OR_TAG.fullmatch(name.tag)
    )
    if not well_formed:
        raise InvalidRequest("invalid model name", reason=INVALID_NAME, field="model")
    return name


def same_model(one: str, other: str) -> bool:
    """True if two spellings name one model. Raises as `parse_name` does."""
    return parse_name(one).key == parse_name(other).key


def _split(text: str) -> ModelName:
    tag = DEFAULT_TAG
    # A colon before the last slash belongs to a host's port, not to a tag.
    if text.rfind(":") > text.rfind("/"):
        text, _, tag = text.rpartition(":")
    rest, slash, model = text.rpartition("/")
    if not slash:
        return ModelName(DEFAULT_HOST, DEFAULT_NAMESPACE, model, tag)
    rest, slash, namespace = rest.rpartition("/")
    if not slash:
        return ModelName(DEFAULT_HOST, namespace, model, tag)
    _, _, host = rest.rpartition("://")
    return ModelName(host, namespace, model, tag)


def _without_local(text: str) -> str:
    if not text.lower().endswith(_LOCAL):
        if _is_cloud(text.rpartition(":")[2]) and text[: text.rfind(":")].lower().endswith(_LOCAL):
            raise _contradiction(text)
        return text
    bare = text[: -len(_LOCAL)]
    if ":" in bare and _is_cloud(bare.rpartition(":")[2]):
        raise _contradiction(text)
    return bare


def _is_cloud(tag: str) -> bool:
    return tag.lower() == "cloud" or tag.lower().endswith("-cloud")


def _contradiction(text: str) -> InvalidRequest:
    message = f'use either :local or :cloud, not both: "{text}"'
    return InvalidRequest(message, reason=INVALID_NAME, field="model")


@lru_cache(maxsize=4096)
def model_key(name: str) -> str:
    """Returns the key of a name; a text that is no name (a worker may serve a directory) is compared as text."""
    try:
        return parse_name(name).key
    except InvalidRequest:
        return name.strip().lower()
