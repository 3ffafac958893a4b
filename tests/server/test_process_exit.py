"""The end of a process whose threads compute on."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENDLESS = """
import logging, threading
from vllama_server.process_exit import limit_exit
logging.basicConfig()
def spin():
    while {condition}: pass
thread = threading.Thread(target=spin, name="spinner", daemon=False)
thread.start()
print("stopped")
limit_exit(3, {seconds})
"""


@pytest.mark.parametrize(("condition", "seconds", "status", "named"), [("True", 0.2, 3, True), ("False", 60, 0, False)])
def test_a_thread_keeps_the_process_for_a_moment_only(condition: str, seconds: float, status: int, named: bool) -> None:
    """It ends with the worker's status, says which thread was in its way, and loses no output; else it ends itself."""
    program = ENDLESS.format(condition=condition, seconds=seconds)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (status, "stopped\n")
    assert ("spinner" in done.stderr) is named
