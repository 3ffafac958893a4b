"""Reports of the engine's processes, as they arrive: for progress while it starts, for the root cause when it dies."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllama_server.vllm_adapter.child_plugin import REPORTS_SOCKET

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONGEST_REPORT_BYTES = 256 * 1024
KEPT_FAILURES = 50
"""Enough to hold the first cause: later ones are its echoes in other processes."""


@dataclass(frozen=True, slots=True)
class Report:
    """One log record of an engine process."""

    process: str
    level: int
    message: str
    error_type: str = ""
    """Class of the exception that was logged with it; empty when there was none."""
    error: str = ""
    traceback: str = ""


class ReportInbox:
    """Receives the reports of all processes of one engine on a socket in its private directory.

    `on_report` is called from the inbox's own thread.
    """

    def __init__(self, directory: Path, on_report: Callable[[Report], None]) -> None:
        self._on_report = on_report
        self.path = directory / REPORTS_SOCKET
        """Where reports go to."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._failures: deque[Report] = deque()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._receive, name="vllama-engine-reports", daemon=True)
        self._thread.start()

    def failures(self) -> list[Report]:
        """Returns the first reports of level ERROR and above, oldest first."""
        with self._lock:
            return list(self._failures)

    def close(self) -> None:
        """Stops receiving and removes the socket. May be called more than once."""
        if self._thread.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last, suppress(OSError):
                last.sendto(b"", str(self.path))
            self._thread.join()
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def _receive(self) -> None:
        while data := self._socket.recv(LONGEST_REPORT_BYTES):
            report = Report(**json.loads(data))
            if report.level >= logging.ERROR:
                with self._lock:
                    if len(self._failures) < KEPT_FAILURES:
                        self._failures.append(report)
            self._on_report(report)
