"""The balancer's log: its own records and the lines of its workers, as text for people or JSON for machines."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

_OWN = re.compile(r"^(\d{4}-\d\d-\d\d \S+ [A-Z]+ |\{|vllama worker: )")
"""Start of a line that the worker's own code printed."""
_GRAVE = re.compile(r"^(\([^)]*\) )*(ERROR|CRITICAL) ")
"""Start of an error that vLLM printed."""


class StandardError:
    """Standard error as it is at each write: a live display replaces it while it is shown."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class JsonFormatter(logging.Formatter):
    """Writes one JSON object per record; a traceback becomes one string."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up(log_format: str, level: str) -> None:
    """Sends this package's records of that level, and warnings of all others, to standard error."""
    handler: logging.Handler = logging.StreamHandler(StandardError())
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("vllama_balancer").setLevel(level.upper())


class WorkerLog:
    """The LogSink of the fleet: writes the workers' lines to the balancer's log.

    Text gets the worker's name in front; JSON lines stay as they are, so that the stream stays JSON.
    Below debug level, lines of vLLM and its libraries are left out unless they are errors; the supervisor keeps them
    to explain a crash.
    """

    def __init__(self, stream: TextIO | StandardError, log_format: str, level: str) -> None:
        self._stream = stream
        self._as_json = log_format == "json"
        self._everything = level == "debug"

    def line(self, worker: str, text: str) -> None:
        if not (self._everything or _OWN.match(text) or _GRAVE.match(text)):
            return
        if not self._as_json:
            text = f"[{worker}] {text}"
        elif not text.startswith("{"):
            text = json.dumps({"level": "info", "worker": worker, "message": text}, ensure_ascii=False)
        self._stream.write(text + "\n")
        self._stream.flush()
