"""Where the weights of a model that is not installed yet would come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A GGUF file on this machine, to be converted."""

    name: str
    """Display form of the name that it will be installed under."""
    path: Path
    """The file."""
    origin: str
    """For people."""
    license: str = ""
    """Text of the licence; empty: what the file says."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """Option values that the name presets, by Ollama's names."""


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A Hugging Face repository, to be downloaded."""

    name: str
    """Display form of the name that it will be installed under."""
    repository: str
    """Its id: "Qwen/Qwen2.5-0.5B-Instruct"."""
    quantization: str = ""
    """For a repository of GGUF files: which of them, as in "Q4_K_M"; empty: safetensors."""
    license: str = ""
    """Short name of the licence, as far as it is known beforehand."""
    parameters: Mapping[str, object] = field(default_factory=dict)
    """Option values that the name presets, by Ollama's names."""


Source = GgufFile | HubRepository
"""Everything that can be installed."""
