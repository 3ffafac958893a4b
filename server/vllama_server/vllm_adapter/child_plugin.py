"""The plug-in of vLLM's own processes: reports all that they log, and puts their files into the engine's directory.

vLLM calls `install` (entry point `vllm.general_plugins`) in each of its processes before it loads the model. Without
the reports, the cause of a failed start would only be in the log of a process that is gone. Imports nothing heavy,
because it runs in every process.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import socket
import tempfile
import traceback

from vllama_server.vllm_adapter import parent_watch

OWNER_VARIABLE = "VLLAMA_ENGINE_OWNER"
"""Process id of the worker, where the plug-in does nothing."""
DIRECTORY_VARIABLE = "VLLAMA_ENGINE_DIRECTORY"
"""Private directory of the engine."""
REPORTS_SOCKET = "reports.sock"
"""Name of its unix datagram socket for reports."""
LONGEST_TEXT = 16_000
"""Characters of a message or a traceback that fit a datagram."""


def install() -> None:
    """Sets up a process. Does nothing in the worker itself and in processes without a worker."""
    owner = os.environ.get(OWNER_VARIABLE)
    if owner is None or owner == str(os.getpid()):
        return
    parent_watch.watch(os.getppid())  # for a process that multiprocessing did not start
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if directory:
        tempfile.tempdir = directory  # removed with the directory
        _report_to(f"{directory}/{REPORTS_SOCKET}")


def _report_to(path: str) -> None:
    logger = logging.getLogger("vllm")
    if not any(isinstance(handler, ReportHandler) for handler in logger.handlers):
        logger.addHandler(ReportHandler(path))


class ReportHandler(logging.Handler):
    """Sends every log record to the worker as one JSON datagram, and never waits for it."""

    def __init__(self, path: str) -> None:
        super().__init__(logging.INFO)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one record; drops it if the worker has gone or does not read."""
        try:
            self._socket.sendto(json.dumps(_report(record)).encode(), self._path)
        except OSError:
            pass
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()
        super().close()


def _report(record: logging.LogRecord) -> dict[str, object]:
    error = record.exc_info[1] if record.exc_info else None
    return {
        "process": multiprocessing.current_process().name,
        "level": record.levelno,
        "message": record.getMessage()[-LONGEST_TEXT:],
        "error_type": type(error).__name__ if error else "",
        "error": str(error)[:LONGEST_TEXT] if error else "",
        "traceback": "".join(traceback.format_exception(error))[-LONGEST_TEXT:] if error else "",
    }
