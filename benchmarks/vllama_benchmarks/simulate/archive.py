"""Keeps what has been computed in a directory, so that a comparison that was interrupted goes on where it was.

Everything is kept under a fingerprint of the sources that it depends on: whoever changes a policy
or the engine starts over.
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
        """Keeps results in a directory, which is made; they are those of the present sources unless told otherwise."""
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._fingerprint = fingerprint or fingerprint_of_sources()

    def within(self, folder: str) -> Archive:
        """Makes an archive of the same sources in a folder of this one."""
        return Archive(self._directory / folder, self._fingerprint)

    def get(self, name: str, asked: list[Any], compute: Callable[[], Any]) -> Any:
        """Returns what is kept under the name for the same question, or computes and keeps it.

        Question and result have to be made of JSON's types.
        """
        path = self._directory / f"{name}.json"
        kept = _read(path)
        if kept.get("fingerprint") == self._fingerprint and kept.get("asked") == asked:
            return kept["result"]
        result = compute()
        # A file that is half written would be taken for no file, and nothing would be lost but time.
        path.write_text(
            json.dumps({"fingerprint": self._fingerprint, "asked": asked, "result": result}), encoding="utf-8"
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
