"""Ends the engine's processes when the process that started them ends, and not before, from their very first moment.

vLLM's processes do not watch their parent: after a SIGKILL of the worker they would live on and
keep the device's memory. Its plug-ins come too late to cure that, because a process first imports
vLLM for seconds and then waits minutes for a worker that is gone. So the watch travels inside what
multiprocessing hands to a new process, and begins when that is unpacked, before any import.

Nor do they know that a Ctrl-C in a terminal, which reaches them as well, asks the worker to drain.

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
    """Becomes a running watch, and the parent's environment, in each process that it is pickled into.

    A forked process has the environment of the process that it was forked from, which may be older.
    """

    def __reduce__(self) -> tuple[object, tuple[int, dict[str, str]]]:
        """Takes the id of the process that pickles, which is the parent of the one that unpickles."""
        return _watched, (os.getpid(), dict(os.environ))


def hand_down() -> None:
    """Gives every process that multiprocessing starts from now on, and all of theirs, a watch.

    multiprocessing copies its `_config` from process to process; there is no public place that a
    new process unpacks before it imports its target.
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
    """Lets the kernel kill this process with the thread that started it: for one that forks and must have no thread."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_id:
        _end()


def leave_interrupts_to_parent() -> None:
    """Keeps SIGINT from this thread and from all that it starts: it is for the worker, which ends its engine last."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _parent_of(process_id: int) -> int:
    """Reads the id of a process's parent; 0 when it has gone."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _watched(parent_id: int, environ: dict[str, str]) -> ParentWatch:
    leave_interrupts_to_parent()
    watch(parent_id)
    # Only what differs: a process whose whole environment was replaced can no longer give itself a title.
    os.environ.update({name: value for name, value in environ.items() if os.environ.get(name) != value})
    return ParentWatch()


def _end() -> None:
    # Nothing is worth a clean-up: the engine's owner is gone, and what it held must be free at once.
    os.kill(os.getpid(), signal.SIGKILL)
