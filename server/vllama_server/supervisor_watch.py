"""Ends the worker with its supervisor, whatever way that one died.

The supervisor holds the write end of a pipe and never writes: when it is gone, even by kill -9,
the kernel closes its end. A thread waits for that, because the event loop may be busy or stuck
just then; and it ends everything by SIGKILL, because nobody is left to wait for a drain.
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
    """Calls `on_gone` from a daemon thread once the other end of the pipe is closed.

    Raises OSError when `fd` is not open.
    """
    # Children must not hold a copy of the descriptor.
    os.set_inheritable(fd, False)
    thread = threading.Thread(target=_wait, args=(fd, on_gone), name="parent-watch", daemon=True)
    thread.start()
    return thread


def end_at_once() -> None:
    """Kills every process below this one, then ends this one without cleaning up.

    Python's resource trackers are left: each ends by itself right after those it serves, and only
    then removes their shared memory from the machine.
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
