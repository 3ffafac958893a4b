"""Reports of the engine's processes: progress while the engine starts, the root cause when it dies.

vLLM has no interface for progress, so it is read from its log. Each entry of the table is a phrase of vLLM's and how
far the start is when it appears. The fractions are shares of the phase's usual time. An unknown log line changes
nothing, so a new wording costs detail and never correctness.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllama_protos.v1.worker_pb2 import (
    START_PHASE_COMPILE,
    START_PHASE_DOWNLOAD,
    START_PHASE_LOAD,
)
from vllama_server.vllm_adapter.child_plugin import REPORTS_SOCKET

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vllama_protos.v1 import worker_pb2
    from vllama_server.engine.protocol import Progress


LONGEST_REPORT_BYTES = 256 * 1024
FATAL = "EngineCore encountered a fatal error"
"""vLLM's words for the exception that ends the engine; others belong to one request and end nothing."""
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
        """The address of reports."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._failures: deque[Report] = deque()
        self._fatal: Report | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._receive, name="vllama-engine-reports", daemon=True)
        self._thread.start()

    def failures(self) -> list[Report]:
        """Returns the first reports of level ERROR and above, oldest first."""
        with self._lock:
            return list(self._failures)

    def fatal(self) -> Report | None:
        """Returns the report of the exception that ended the engine; None while it runs, or if it was killed."""
        return self._fatal

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
            if FATAL in report.message:
                self._fatal = self._fatal or report
            if report.level >= logging.ERROR:
                with self._lock:
                    if len(self._failures) < KEPT_FAILURES:
                        self._failures.append(report)
            self._on_report(report)


_MILESTONES = (
    ("Initializing a V1 LLM engine", START_PHASE_LOAD, 0.3),
    ("Starting to load model", START_PHASE_LOAD, 0.7),
    ("Time spent downloading weights", START_PHASE_DOWNLOAD, 1.0),
    ("Loading weights took", START_PHASE_LOAD, 0.9),
    ("Model loading took", START_PHASE_LOAD, 1.0),
    ("Warming up model for the compilation", START_PHASE_COMPILE, 0.1),
    ("torch.compile takes", START_PHASE_COMPILE, 0.6),
    ("Available KV cache memory", START_PHASE_COMPILE, 0.7),
    ("KV cache size", START_PHASE_COMPILE, 0.8),
    ("Graph capturing finished", START_PHASE_COMPILE, 0.95),
    ("init engine (profile, create kv cache", START_PHASE_COMPILE, 1.0),
)


class StartProgress:
    """Progress of a start from log lines of any process; it only advances. Safe to call from any thread."""

    def __init__(self, report: Progress) -> None:
        self._report = report
        self._reached = (0, 0.0)

    def reach(self, phase: worker_pb2.StartPhase, fraction: float = 0.0) -> None:
        """Reports a phase and fraction, unless the start is farther already."""
        place = (phase, fraction)
        if place > self._reached:
            self._reached = place
            self._report(phase, fraction)

    def read(self, message: str) -> None:
        for phrase, phase, fraction in _MILESTONES:
            if phrase in message:
                self.reach(phase, fraction)
                return


class ProgressHandler(logging.Handler):
    """Reads progress from the log of this process."""

    def __init__(self, progress: StartProgress) -> None:
        super().__init__(logging.INFO)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.read(record.getMessage())
