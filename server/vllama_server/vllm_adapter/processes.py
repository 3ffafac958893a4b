"""The engine's processes as the operating system sees them."""

from __future__ import annotations

import multiprocessing
from contextlib import suppress

import psutil


def kill_children() -> None:
    """Kills every process that multiprocessing started from here, with all its descendants.

    The engine's are the only ones in a worker. Killing instead of asking: this is for processes
    that are stuck, stopped or in the middle of a start, and would not answer.
    """
    for child in multiprocessing.active_children():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(child.pid)
            for descendant in [*process.children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):
                    descendant.kill()
