"""The private directory of one engine: sockets and temporary files of all its processes.

vLLM leaves its sockets and rendezvous files in the machine's temporary directory whenever one of its processes is
killed, and at some orderly ends as well. Here they are in one directory, which is removed with the engine.

After a SIGKILL of the worker the next engine that starts on the machine removes the directory. A lock shows whether its
owner still lives: the kernel drops it with its holder, while process ids repeat and mean nothing across containers that
share the directory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "vllama-engine-"
LOCK = "owner.lock"
LONGEST_PARENT = 50
"""Characters: the path of a unix socket may have 107, and vLLM's names have 36."""
FALLBACK_PARENT = Path("/tmp")  # the directory itself gets a random name and mode 0700


class Workspace:
    """A directory for this user only, locked until `close`."""

    def __init__(self, parent: Path | None = None) -> None:
        parent = parent or _parent()
        sweep(parent)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        """The directory of the engine's processes."""
        self._lock = _held_lock(self.path)

    def close(self) -> None:
        """Removes the directory. May be called more than once."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def sweep(parent: Path) -> None:
    """Removes the directories of killed engines. Skips those that are in use or not ours."""
    for directory in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # in use, another user's, or being swept by another process
            lock = os.open(directory / LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)


def _parent() -> Path:
    parent = Path(tempfile.gettempdir())
    return parent if len(str(parent)) <= LONGEST_PARENT else FALLBACK_PARENT


def _held_lock(directory: Path) -> int | None:
    """Locks before the lock is visible: a sweep in between would take the directory for an orphan."""
    hidden = directory / f".{LOCK}"
    lock = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    hidden.rename(directory / LOCK)
    return lock
