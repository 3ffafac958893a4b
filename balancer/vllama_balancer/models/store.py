"""The model store: which models are installed, under which names, and where their weights are.

A directory of small JSON manifests, one for each name, beside directories of weights that several names
may share. Manifests are replaced and weights installed by rename, so a reader never sees half of either, and
a process that is killed leaves only files that the next one sweeps or resumes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vllama_balancer.models.manifest import StoredModel
from vllama_balancer.names import parse_name

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)


class Store:
    """The installed models beneath one directory. Methods block on a local disk only, briefly."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def weights_directory(self) -> Path:
        """Where weights are installed."""
        return self.directory / "weights"

    def models(self) -> list[StoredModel]:
        """Lists what is installed, newest first. A manifest that cannot be read is left out and logged."""
        manifests = sorted((self.directory / "manifests").glob("*.json"))
        found = [model for model in map(self._read, manifests) if model is not None]
        return sorted(found, key=lambda model: model.modified_at, reverse=True)

    def find(self, name: str) -> StoredModel | None:
        """Finds a model by any spelling of its name; None when it, or its weights, are not there."""
        model = self._read(self._manifest(name))
        return model if model is not None and model.weights.is_dir() else None

    def register(self, model: StoredModel) -> StoredModel:
        """Makes a name known, in place of what had it before; on disk when this returns."""
        weights = model.weights
        inside = weights.is_relative_to(self.directory)
        record = {
            "name": model.name, "digest": model.digest, "weights_digest": model.weights_digest,
            "weights": str(weights.relative_to(self.directory) if inside else weights),
            "size_bytes": model.size_bytes, "source": model.source, "modified_at": model.modified_at.isoformat(),
            "license": model.license, "parent": model.parent, "system": model.system,
            "parameters": dict(model.parameters), "messages": list(model.messages),
            "template": model.template,
        }  # fmt: skip
        write_atomically(self._manifest(model.name), json.dumps(record, indent=1).encode())
        return model

    def copy(self, source: StoredModel, name: str, **changes: Any) -> StoredModel:
        """Makes a second name for the same weights, with other presets when given."""
        display = parse_name(name).display
        return self.register(replace(source, name=display, modified_at=datetime.now(UTC), **changes))

    def remove(self, name: str) -> bool:
        """Forgets a name, and deletes the weights that no other name needs. False when unknown."""
        with self.locked("manifests"):
            model = self._read(self._manifest(name))
            if model is None:
                return False
            self._manifest(name).unlink(missing_ok=True)
            still_used = any(other.weights == model.weights for other in self.models())
        if not still_used and model.weights.is_relative_to(self.weights_directory):
            delete_tree(model.weights)
        return True

    @contextlib.contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Holds the lock of a key among all processes; the kernel releases it when one dies."""
        with locked_file(self.directory / "locks" / f"{quote(key, safe='')}.lock"):
            yield

    def _manifest(self, name: str) -> Path:
        return self.directory / "manifests" / f"{quote(parse_name(name).key, safe='')}.json"

    def _read(self, path: Path) -> StoredModel | None:
        try:
            record = json.loads(path.read_bytes())
            record.pop("digest")
            record["weights"] = self.directory / record["weights"]
            record["modified_at"] = datetime.fromisoformat(record["modified_at"])
            record["messages"] = tuple(record["messages"])
            return StoredModel(**record)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is not a readable manifest and is ignored: %s", path, error)
            return None


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file, which stays; waits for whoever holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file by rename, synced to disk, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".partial")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def delete_tree(directory: Path) -> None:
    """Deletes a directory that readers see whole or not at all: it is renamed first."""
    doomed = directory.with_name(f".{directory.name}.{os.getpid()}.deleted")
    with contextlib.suppress(FileNotFoundError):
        directory.rename(doomed)
        shutil.rmtree(doomed)


def directory_size(directory: Path) -> int:
    """Adds up the bytes of the files in a directory, links followed."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
