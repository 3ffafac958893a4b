"""The model store: a directory with one manifest per installed name, beside directories of weights.

Several names may share weights. Manifests are replaced and weights installed by rename, so a reader never sees half
of either, and a killed process leaves only files that the next one deletes or resumes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from vllama_balancer.models.manifest import decode_manifest, encode_manifest
from vllama_balancer.names import parse_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllama_balancer.models.manifest import StoredModel

RECORD = "vllama.json"
"""File in a directory of weights that says what it was made from; it is written last."""

logger = logging.getLogger(__name__)


class Store:
    """The installed models below one directory. Methods block, briefly, on a local disk only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.weights_directory = directory / "weights"

    def models(self) -> list[StoredModel]:
        """Lists the installed models, newest first; unreadable manifests are left out with a warning."""
        manifests = sorted((self.directory / "manifests").glob("*.json"))
        found = [model for model in map(self._read, manifests) if model is not None]
        return sorted(found, key=lambda model: model.modified_at, reverse=True)

    def find(self, name: str) -> StoredModel | None:
        """Finds a model by any spelling of its name; None if it or its weights are missing."""
        model = self._read(self._manifest_path(name))
        return model if model is not None and model.weights.is_dir() else None

    def register(self, model: StoredModel) -> StoredModel:
        """Writes the manifest of a name, replacing an earlier one; on disk when this returns."""
        write_atomically(self._manifest_path(model.name), encode_manifest(model, self.directory))
        return model

    def copy(self, source: StoredModel, name: str, **changes: Any) -> StoredModel:
        """Makes a second name for the same weights; `changes` replace fields of the source."""
        display = parse_name(name).display
        return self.register(replace(source, name=display, modified_at=datetime.now(UTC), **changes))

    def remove(self, name: str) -> bool:
        """Removes a name, and the weights that no other name uses. Returns False if the name is unknown."""
        with self.locked("manifests"):
            model = self._read(self._manifest_path(name))
            if model is None:
                return False
            self._manifest_path(name).unlink(missing_ok=True)
            still_used = any(other.weights == model.weights for other in self.models())
        if not still_used and model.weights.is_relative_to(self.weights_directory):
            delete_tree(model.weights)
        return True

    @contextlib.contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Holds the lock of a key among all processes; the kernel releases it when the holder dies."""
        with locked_file(self.directory / "locks" / f"{quote(key, safe='')}.lock"):
            yield

    def _manifest_path(self, name: str) -> Path:
        return self.directory / "manifests" / f"{quote(parse_name(name).key, safe='')}.json"

    def _read(self, path: Path) -> StoredModel | None:
        try:
            return decode_manifest(path.read_bytes(), self.directory)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s is not a readable manifest and is ignored: %s", path, error)
            return None


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file, waiting for it if need be; the file stays."""
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
    """Deletes a directory; it is renamed first, so that no reader sees half of it."""
    doomed = directory.with_name(f".{directory.name}.{os.getpid()}.deleted")
    with contextlib.suppress(FileNotFoundError):
        directory.rename(doomed)
        shutil.rmtree(doomed)


def directory_size(directory: Path) -> int:
    """Returns the bytes of the files below a directory, links followed."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
