"""Which parsers and which gap-filling template a model needs, from a table of model families.

vLLM has the parsers but picks none by itself, and a wrong one garbles output; so the choice is
data that a reader can check (families.toml), and `--engine-arg tool_parser=…`,
`reasoning_parser=…` and `fim=…` override it. "none" turns one off.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Traits:
    """What the adapter must know of a model beyond its files; empty means that it has none."""

    tool_parser: str = ""
    """vLLM's name of the parser for tool calls."""
    reasoning_parser: str = ""
    """vLLM's name of the parser for reasoning."""
    fim: str = ""
    """Prompt for filling a gap, with {prefix} and {suffix}."""


@dataclass(frozen=True, slots=True)
class Family:
    """One entry of the table: conditions, all of which must hold, and what follows from them."""

    label: str
    types: frozenset[str] = frozenset()
    name: str = ""
    template: str = ""
    traits: Traits = Traits()

    def matches(self, model_type: str, name: str, template: str) -> bool:
        """Whether a model belongs to this family."""
        return (
            (not self.types or model_type in self.types)
            and (not self.name or re.search(self.name, name.lower()) is not None)
            and (not self.template or re.search(self.template, template) is not None)
        )


def load_families() -> tuple[Family, ...]:
    """Reads the table that ships with the package, in its order."""
    table = tomllib.loads((files("vllama_server.vllm_adapter") / "families.toml").read_text("utf-8"))
    return tuple(_family(entry) for entry in table["family"])


def traits_of(
    families: Sequence[Family], model_type: str, names: Sequence[str], template: str, overrides: Mapping[str, str]
) -> Traits:
    """Finds the first family that matches under any of the model's names, then applies the overrides."""
    found = next(
        (family.traits for family in families for name in names if family.matches(model_type, name, template)),
        Traits(),
    )
    chosen = {
        field: "" if value.lower() == "none" else value
        for field in ("tool_parser", "reasoning_parser", "fim")
        if (value := overrides.get(field)) is not None
    }
    return replace(found, **chosen)


def fill_in_the_middle(template: str, prefix: str, suffix: str) -> str:
    """Writes the prompt of a gap; braces in the texts mean nothing."""
    before, _, rest = template.partition("{prefix}")
    if "{suffix}" in before:
        head, _, middle = before.partition("{suffix}")
        return head + suffix + middle + prefix + rest
    middle, _, tail = rest.partition("{suffix}")
    return before + prefix + middle + suffix + tail


def _family(entry: Mapping[str, Any]) -> Family:
    return Family(
        label=entry["label"],
        types=frozenset(entry.get("types", ())),
        name=entry.get("name", ""),
        template=entry.get("template", ""),
        traits=Traits(entry.get("tools", ""), entry.get("reasoning", ""), entry.get("fim", "")),
    )
