"""Ends every process that a test run has started once the run itself is gone, however it ended.

A run that is killed never reaches the end of its fixtures, and would leave balancers, workers and engines behind. So a
process of its own waits at a pipe that the run holds open; when the pipe closes it kills whatever carries the run's
mark in its environment, which every process inherits from the one that started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

MARK = "STARTED_BY_TEST_RUN"
"""The variable that holds the mark."""
ROUNDS = 50
"""How often the guardian looks again: a process may start another one while it looks."""
PAUSE_SECONDS = 0.1


class Guardian:
    """Watches over what this process starts from now on. `release` it at the end."""

    def __init__(self) -> None:
        mark = os.environ[MARK] = uuid.uuid4().hex
        # In a session of its own: a kill of the run's process group must not reach it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, mark], stdin=subprocess.PIPE, start_new_session=True
        )

    def release(self) -> None:
        """Has it end what is left, and returns when it has."""
        assert self._process.stdin is not None
        # A word, not the pipe's end alone: a process that was forked from this one may hold the pipe open.
        self._process.stdin.write(b".")
        self._process.stdin.close()
        self._process.wait()


def marked(mark: str) -> list[int]:
    """Lists the processes with the mark, this one excepted."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended, or is another user's
        if f"{MARK}={mark}".encode() in environment and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def end_all(mark: str) -> None:
    """Kills the marked processes until there are none."""
    for _ in range(ROUNDS):
        left = marked(mark)
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(PAUSE_SECONDS)


def main(mark: str) -> None:
    """Waits for the end of the run, then ends what it has left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read(1)
    end_all(mark)


if __name__ == "__main__":
    main(sys.argv[1])
