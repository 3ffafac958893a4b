"""What a test run leaves behind is ended, also when the run is killed."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 60.0

RUN = """
import subprocess, sys
from tests.guardian import Guardian
guardian = Guardian()
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(child.pid, flush=True)
sys.stdin.read()
guardian.release()
"""


def start_run() -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """Starts a run, and waits for the child that it starts in a session of its own."""
    run = subprocess.Popen([sys.executable, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert run.stdout is not None
    return run, psutil.Process(int(run.stdout.readline()))


def wait_for_end(process: psutil.Process) -> None:
    """Returns when a process has ended, reaped by its parent or not."""
    until = time.monotonic() + PATIENCE_SECONDS
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, f"{process} was left behind"
        time.sleep(0.02)


def test_children_of_a_run_that_is_killed_are_ended() -> None:
    """SIGKILL: no fixture of that run has a chance to tidy up."""
    run, child = start_run()
    with run:
        run.kill()
    wait_for_end(child)


def test_a_run_that_ends_leaves_nothing() -> None:
    """What its own fixtures have forgotten is gone when it is released."""
    run, child = start_run()
    with run:
        assert run.stdin is not None
        run.stdin.close()
        assert run.wait(timeout=PATIENCE_SECONDS) == 0
    wait_for_end(child)
