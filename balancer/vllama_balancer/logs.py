"""The balancer's log: its own records and the lines of its workers, as text for people or JSON for machines.

On the console each event stands once. The balancer reports what its workers do, so of their own lines only those from
WARNING on are shown as text. Each worker's log file has all of its lines, and those of vLLM.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

_OWN = re.compile(r"^\d{4}-\d\d-\d\d \S+ (?P<level>[A-Z]+) \S+ (?P<logger>[\w.]+): (?P<message>.*)$")
"""A line that the worker's own code printed as text."""
_LAST_WORDS = "vllama_server.serving"
"""Its errors end the worker: the supervisor logs them with the end of the process."""
_SHOWN = ("WARNING", "ERROR", "CRITICAL")
_FILE_BYTES = 8 * 2**20
"""Size at which a worker's log file is renamed; one older file is kept."""

_log = logging.getLogger(__name__)


class StandardError:
    """Standard error as it is at each write: a live display replaces it while it is shown."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class JsonFormatter(logging.Formatter):
    """Writes one JSON object per record, with the record's `facts` as fields; a traceback becomes one string."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **vars(record).get("facts", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up(log_format: str, level: str) -> None:
    """Sends this package's records of that level, and warnings of all others, to standard error."""
    handler: logging.Handler = logging.StreamHandler(StandardError())
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("vllama_balancer").setLevel(level.upper())


class WorkerLog:
    """The LogSink of the fleet: writes the workers' lines to a file for each worker and to the balancer's log.

    Text: the worker's own lines from WARNING on; all lines at debug level. JSON: its own lines as they are, so that the
    stream stays JSON; all lines at debug level.
    """

    def __init__(
        self, stream: TextIO | StandardError, log_format: str, level: str, directory: Path | None = None
    ) -> None:
        """`directory` holds the workers' log files; None: there are none."""
        self._stream = stream
        self._as_json = log_format == "json"
        self._everything = level == "debug"
        self._files = _LogFiles(directory) if directory is not None else None

    def line(self, worker: str, text: str) -> None:
        if self._files is not None:
            self._files.write(worker, text)
        if self._as_json:
            self._show_json(worker, text)
        elif self._everything:
            self._write(f"[{worker}] {text}")
        elif (own := _OWN.match(text)) and own["level"] in _SHOWN and own["logger"] != _LAST_WORDS:
            _log.log(logging.getLevelNamesMapping()[own["level"]], "worker %s: %s", worker, own["message"])

    def close(self) -> None:
        if self._files is not None:
            self._files.close()

    def _show_json(self, worker: str, text: str) -> None:
        if text.startswith("{"):
            self._write(text)
        elif self._everything:
            self._write(json.dumps({"level": "info", "worker": worker, "message": text}, ensure_ascii=False))

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


def worker_log_directory(environment: Mapping[str, str], home: Path, port: int) -> Path:
    """Returns the folder of the workers' log files: one for each HTTP port, as servers differ by it."""
    state = environment.get("XDG_STATE_HOME", "").strip()
    return (Path(state) if state else home / ".local" / "state") / "vllama" / "logs" / str(port)


class _LogFiles:
    """A bounded file for each worker. A full disk or a missing right costs lines, never a worker."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, _LogFile] = {}

    def write(self, worker: str, text: str) -> None:
        if worker not in self._files:
            with contextlib.suppress(OSError):
                self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._files[worker] = _LogFile(self._directory / f"{worker.replace('/', '_')}.log")
        self._files[worker].emit(logging.makeLogRecord({"msg": text}))

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class _LogFile(RotatingFileHandler):
    """One worker's log file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=_FILE_BYTES, backupCount=1, encoding="utf-8", errors="replace", delay=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        pass
