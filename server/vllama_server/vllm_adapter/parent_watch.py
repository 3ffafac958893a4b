"""Ends the engine's processes with their parent, from their first moment on.

vLLM's processes do not watch their parent: after a SIGKILL of the worker they would live on and keep the device's
memory. A plug-in is too late for that, because a process first imports vLLM for seconds and then waits minutes for a
worker that is gone. So the watch is part of what multiprocessing passes to a new process, and begins when that is
unpacked, before any import.

The processes also ignore SIGINT: a Ctrl-C in a terminal reaches them as well, but only asks the worker to drain.

Imports nothing heavy, because it runs in every process of the engine.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import select
import signal
import threading
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_THREAD_NAME = "vllama-parent-watch"
_KEY = "vllama_parent_watch"


class ParentWatch:
    """Starts a watch and copies the parent's environment in each process that unpickles it.

    A forked process has the environment of the process that it was forked from, which may be older.
    """

    def __reduce__(self) -> tuple[object, tuple[int, dict[str, str]]]:
        """Pickles the id of this process, which is the parent of the one that unpickles."""
        return _watched, (os.getpid(), dict(os.environ))


def hand_down() -> None:
    """Adds a watch to every process that multiprocessing starts from now on, and to theirs.

    multiprocessing copies its `_config` from process to process; nothing public is unpacked before a new process
    imports its target.
    """
    multiprocessing.current_process()._config[_KEY] = ParentWatch()  # type: ignore[attr-defined]


def watch(parent_id: int) -> None:
    """Kills this process as soon as its parent has ended. A second call does nothing.

    The parent may also be the one behind a fork server.
    """
    if any(thread.name == _THREAD_NAME for thread in threading.enumerate()):
        return
    try:
        parent = os.pidfd_open(parent_id)
    except ProcessLookupError:
        _end()
        return
    if parent_id not in (os.getppid(), _parent_of(os.getppid())):
        _end()

    def wait() -> None:
        select.select([parent], [], [])
        _end()

    threading.Thread(target=wait, name=_THREAD_NAME, daemon=True).start()


def end_with_parent(parent_id: int) -> None:
    """Makes the kernel kill this process with its parent thread: for a process that forks and must have no thread."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_id:
        _end()


def leave_interrupts_to_parent() -> None:
    """Blocks SIGINT in this thread and its children: the worker handles it and ends its engine last."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _parent_of(process_id: int) -> int:
    """Returns the id of a process's parent; 0 when the process has gone."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _watched(parent_id: int, environ: dict[str, str]) -> ParentWatch:
    leave_interrupts_to_parent()
    watch(parent_id)
    # Only what differs: after a replacement of the whole environment a process can no longer set its title.
    os.environ.update({name: value for name, value in environ.items() if os.environ.get(name) != value})
    return ParentWatch()


def _end() -> None:
    # No clean-up: the engine's owner is gone, and its memory must be free at once.
    os.kill(os.getpid(), signal.SIGKILL)
