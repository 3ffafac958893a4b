"""The engine's processes as the operating system sees them."""

from __future__ import annotations

import multiprocessing
from contextlib import suppress

import psutil


class EngineProcesses:
    """Those that multiprocessing starts from the moment on when this is made: one engine's, no other's."""

    def __init__(self) -> None:
        self._others = {child.pid for child in multiprocessing.active_children()}

    def kill(self) -> None:
        """Kills them with all their descendants.

        Killing instead of asking: this is for processes that are stuck, stopped or in the middle of
        a start, and would not answer.
        """
        for child in multiprocessing.active_children():
            if child.pid not in self._others:
                _kill_tree(child.pid)


def _kill_tree(process_id: int | None) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(process_id)
        for doomed in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                doomed.kill()
