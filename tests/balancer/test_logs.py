"""The log as text for people and JSON for machines, workers' lines included."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest

from vllama_balancer.logs import JsonFormatter, WorkerLog, worker_log_directory

CHATTER = "(EngineCore pid=7) WARNING 11-22 21:00:00 [core.py:1] Triton is not installed"
GRAVE = "(EngineCore pid=7) ERROR 11-22 21:00:00 [core.py:1] Traceback (most recent call last):"
READY = "2026-11-22 21:00:00,123 INFO w vllama_server.serving: ready"
WARNING = "2026-11-22 21:00:00,123 WARNING w vllama_server.join: not joined"
BUG = "2026-11-22 21:00:00,123 ERROR w vllama_server.rpc_log: unhandled exception"
LAST_WORDS = "2026-11-22 21:00:00,123 ERROR w vllama_server.serving: the engine could not start: no memory"


@pytest.mark.parametrize(
    ("log_format", "level", "line", "shown"),
    [
        ("text", "debug", CHATTER, f"[w] {CHATTER}\n"),
        ("text", "debug", READY, f"[w] {READY}\n"),
        ("json", "info", '{"message": "x"}', '{"message": "x"}\n'),
        ("json", "info", CHATTER, ""),
        ("json", "debug", "plain", '{"level": "info", "worker": "w", "message": "plain"}\n'),
    ],
)
def test_lines_of_workers(log_format: str, level: str, line: str, shown: str) -> None:
    """All of them at debug level, with the worker's name; as JSON its own ones, as they are."""
    stream = io.StringIO()
    WorkerLog(stream, log_format, level).line("w", line)
    assert stream.getvalue() == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (WARNING, ["worker w: not joined"]),
        (BUG, ["worker w: unhandled exception"]),
        (READY, []),
        (LAST_WORDS, []),
        (CHATTER, []),
        (GRAVE, []),
        ("vllama worker: no memory", []),
    ],
)
def test_what_the_balancer_reports_is_not_shown_again(
    line: str, shown: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A worker's warnings become the balancer's, with one name and one time; its states and its end are reported."""
    stream = io.StringIO()
    with caplog.at_level(logging.INFO):
        WorkerLog(stream, "text", "info").line("w", line)
    assert (caplog.messages, stream.getvalue()) == (shown, "")


def test_a_file_has_every_line(tmp_path: Path) -> None:
    """Each worker has a file, which grows over the runs of a server."""
    directory = worker_log_directory({"XDG_STATE_HOME": str(tmp_path)}, Path("/nowhere"), 11434)
    for line in (READY, GRAVE):
        log = WorkerLog(io.StringIO(), "text", "info", directory)
        log.line("w", line)
        log.close()
    assert (directory / "w.log").read_text() == f"{READY}\n{GRAVE}\n"
    assert directory.relative_to(tmp_path).parts == ("vllama", "logs", "11434")


def test_a_file_that_cannot_be_written_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The console goes on, without a word about the file for each line."""
    (tmp_path / "logs").write_text("a file where the folder should be")
    stream = io.StringIO()
    log = WorkerLog(stream, "text", "debug", tmp_path / "logs")
    log.line("w", READY)
    log.close()
    assert stream.getvalue() == f"[w] {READY}\n"
    assert capsys.readouterr().err == ""


def test_a_record_as_json() -> None:
    """Time, level, logger, message and traceback are fields of one line."""
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        record = logging.LogRecord("a.b", logging.ERROR, "f", 1, "%s failed", ("x",), (type(error), error, None))
    entry = json.loads(JsonFormatter().format(record))
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "a.b", "x failed")
    assert "ZeroDivisionError" in entry["traceback"] and entry["time"].endswith("+00:00")
