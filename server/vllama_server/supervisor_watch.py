"""Ends the worker when its supervisor ends, however that happens.

The supervisor holds the other end of a socket pair and never writes. When it ends, even by kill -9, the kernel closes
that end. (So it does with a pipe, whose writer does not learn, though, when the worker is ready.) A thread waits for
this, because the event loop may be busy or stuck. It kills everything at once, because a drain would have no
supervisor.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_STATUS = 1


def watch_supervisor(fd: int, on_gone: Callable[[], None]) -> threading.Thread:
    """Calls `on_gone` from a daemon thread once the pipe's other end is closed. Raises OSError if `fd` is not open."""
    # Children must not hold a copy of the descriptor.
    os.set_inheritable(fd, False)
    thread = threading.Thread(target=_wait, args=(fd, on_gone), name="parent-watch", daemon=True)
    thread.start()
    return thread


def announce_ready(fd: int | None) -> None:
    """Writes one byte to the supervisor: by it, a later death is no failed start."""
    if fd is not None:
        # A pipe's read end takes none.
        with suppress(OSError):
            os.write(fd, b"1")


def end_at_once() -> None:
    """Kills every process below this one, then ends this one without cleaning up.

    Python's resource trackers are left alone: each ends right after the processes that it serves, and only then removes
    their shared memory from the machine.
    """
    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if not _is_resource_tracker(child):
                    child.kill()
    os._exit(EXIT_STATUS)


def _is_resource_tracker(process: psutil.Process) -> bool:
    return any("multiprocessing.resource_tracker" in part for part in process.cmdline())


def _wait(fd: int, on_gone: Callable[[], None]) -> None:
    with suppress(OSError):
        while os.read(fd, 1):
            pass
    on_gone()
