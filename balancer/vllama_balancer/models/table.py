"""The table of known models: the repository or package of each Ollama name.

The table is data: models.toml beside this file. A file of the same name and shape in the model store adds to it and
overrides it, so that a new model needs no new version.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllama_balancer.errors import ConfigError
from vllama_balancer.names import parse_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SHIPPED = Path(__file__).with_name("models.toml")
"""The table of this installation."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One name of the table."""

    name: str
    """Display form: "qwen2.5:7b"."""
    parameters: str
    """Number of parameters, in words: "7.6B"."""
    family: str
    """config.json's model_type."""
    context: int
    """Longest context that the model was trained for, tokens."""
    license: str
    """Short name of the licence."""
    repository: str = ""
    """Hugging Face repository with safetensors."""
    package: str = ""
    """Python package with a GGUF file."""
    capabilities: tuple[str, ...] = ()
    """By Ollama's names."""
    parser: str = ""
    """vLLM's tool parser; empty: none."""
    reasoning: str = ""
    """vLLM's reasoning parser; empty: none."""
    quantization: str = "BF16"
    """Format of the weights."""
    gated: bool = False
    """True if the repository requires a token and an accepted licence."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Option values that its makers advise, by Ollama's names; they override the repository's generation_config."""
    refusal: str = ""
    """Why it is not served, and which model to use instead; empty for a served one."""


class ModelTable:
    """The known models, by any spelling of their names."""

    def __init__(self, models: Mapping[str, KnownModel]) -> None:
        self._models = models

    @classmethod
    def load(cls, own: Path | None = None) -> ModelTable:
        """Reads the shipped table, and over it the user's own if that file exists.

        Raises ConfigError that names the file and the wrong entry.
        """
        models: dict[str, KnownModel] = {}
        for path in (SHIPPED, own):
            if path is not None and path.is_file():
                models.update(_read(path))
        return cls(models)

    def find(self, name: str) -> KnownModel | None:
        """Finds an entry, also a refused one; None if the name is not in the table."""
        return self._models.get(parse_name(name).key)

    def __iter__(self) -> Iterator[KnownModel]:
        return iter({id(model): model for model in self._models.values() if not model.refusal}.values())

    def tags(self, model: str) -> list[str]:
        """Lists the names that differ from a name in the tag only, for a hint."""
        stem = parse_name(model).key.rpartition(":")[0]
        return sorted({known.name for key, known in self._models.items() if key.rpartition(":")[0] == stem})


def _read(path: Path) -> dict[str, KnownModel]:
    try:
        families = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a readable table of models: {error}") from None
    found: dict[str, KnownModel] = {}
    for key, family in families.items():
        try:
            found.update(_family(family))
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}: family [{key}] is wrong: {error}; compare {SHIPPED}") from None
    return found


def _family(family: dict[str, Any]) -> dict[str, KnownModel]:
    shared = {key: value for key, value in family.items() if key not in ("name", "tags", "latest")}
    found = {}
    for tag, own in family["tags"].items():
        model = _entry(f"{family['name']}:{tag}", {**shared, **own})
        found[parse_name(model.name).key] = model
    if latest := family.get("latest"):
        found[parse_name(family["name"]).key] = found[parse_name(f"{family['name']}:{latest}").key]
    return found


def _entry(name: str, values: dict[str, Any]) -> KnownModel:
    unknown = values.keys() - {column.name for column in fields(KnownModel)}
    if unknown:
        raise TypeError(f"{name} has unknown keys {', '.join(sorted(unknown))}")
    if bool(values.get("repository")) == bool(values.get("package")):
        raise TypeError(f"{name} needs either a repository or a package")
    return KnownModel(name=name, **{**values, "capabilities": tuple(values.get("capabilities", ()))})
