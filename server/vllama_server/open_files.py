"""The limit of open files: raised at the start, as each call and each of vLLM's processes needs some."""

from __future__ import annotations

import contextlib
import resource

MOST_OPEN_FILES = 65_536
"""More than the process uses; the children inherit the limit, and some programs visit every file below it."""


def raise_open_files() -> None:
    """Raises the process's limit as far as its hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
