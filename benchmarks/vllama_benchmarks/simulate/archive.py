"""A directory of computed results, so that an interrupted comparison continues where it stopped.

Results are kept with a fingerprint of the sources that they depend on: after a change of a policy or of the engine
everything is computed again.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCES = (
    "vllama_balancer.dispatch.placer",
    "vllama_balancer.routing",
    "vllama_balancer.workers.load",
    "vllama_balancer.workers.lease",
    "vllama_benchmarks.simulate",
    "vllama_server.fake_engine",
)
"""Packages and modules on which a result depends."""


class Archive:
    """Results by name, one file each."""

    def __init__(self, directory: Path, fingerprint: str = "") -> None:
        """Creates the directory; the fingerprint is that of the present sources unless one is given."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._fingerprint = fingerprint or fingerprint_of_sources()

    def within(self, folder: str) -> Archive:
        """Returns an archive of the same sources in a folder of this one."""
        return Archive(self._directory / folder, self._fingerprint)

    def get(self, name: str, key: list[Any], compute: Callable[[], Any]) -> Any:
        """Returns the kept result of the name if its key is the same, or computes and keeps it.

        Key and result consist of JSON's types.
        """
        path = self._directory / f"{name}.json"
        kept = _read(path)
        if kept.get("fingerprint") == self._fingerprint and kept.get("asked") == key:
            return kept["result"]
        result = compute()
        # A half-written file reads as none: the result is computed again.
        path.write_text(
            json.dumps({"fingerprint": self._fingerprint, "asked": key, "result": result}), encoding="utf-8"
        )
        return result


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def fingerprint_of_sources() -> str:
    """Hashes everything that results depend on."""
    digest = hashlib.sha256()
    for name in SOURCES:
        package, _, module = name.rpartition(".")
        folder = resources.files(package)
        files = [folder / f"{module}.py"] if (folder / f"{module}.py").is_file() else (folder / module).iterdir()
        for file in sorted(files, key=lambda file: file.name):
            if file.name.endswith(".py"):
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
