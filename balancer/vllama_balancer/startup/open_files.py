"""The limit of open files: raised at the start, and shared out between clients' connections and everything else."""

from __future__ import annotations

import contextlib
import resource

MOST_OPEN_FILES = 65_536
"""More than the process uses; the children inherit the limit, and some programs visit every file below it."""
OTHER_FILES = 256
"""Files that are no client's: libraries, workers' pipes and connections, the model store."""
MOST_CONNECTIONS = 16_384


def raise_open_files() -> None:
    """Raises the process's limit as far as its hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_connections(open_files: int | None = None) -> int:
    """Returns how many HTTP connections the process can have; gRPC has the rest. None takes the process's own limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if open_files is None else open_files
    return max(32, min(MOST_CONNECTIONS, (limit - OTHER_FILES) * 3 // 4))
