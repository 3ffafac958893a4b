"""The log as text for people and JSON for machines, workers' lines included."""

from __future__ import annotations

import io
import json
import logging

import pytest

from vllama_balancer.logs import JsonFormatter, WorkerLog

CHATTER = "(EngineCore pid=7) WARNING 11-22 21:00:00 [core.py:1] Triton is not installed"
OWN = "2026-11-22 21:00:00,123 INFO w vllama_server.serving: ready"
GRAVE = "(EngineCore pid=7) ERROR 11-22 21:00:00 [core.py:1] bad"


@pytest.mark.parametrize(
    ("log_format", "level", "line", "shown"),
    [
        ("text", "info", OWN, f"[w] {OWN}\n"),
        ("text", "info", "vllama worker: no memory", "[w] vllama worker: no memory\n"),
        ("text", "info", CHATTER, ""),
        ("text", "debug", CHATTER, f"[w] {CHATTER}\n"),
        ("text", "info", GRAVE, f"[w] {GRAVE}\n"),
        ("json", "info", '{"message": "x"}', '{"message": "x"}\n'),
        ("json", "debug", "plain", '{"level": "info", "worker": "w", "message": "plain"}\n'),
    ],
)
def test_lines_of_workers(log_format: str, level: str, line: str, shown: str) -> None:
    """With the worker's name, or as JSON, and without the engine's chatter below debug level."""
    stream = io.StringIO()
    WorkerLog(stream, log_format, level).line("w", line)
    assert stream.getvalue() == shown


def test_a_record_as_json() -> None:
    """Time, level, logger, message and traceback are fields of one line."""
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        record = logging.LogRecord("a.b", logging.ERROR, "f", 1, "%s failed", ("x",), (type(error), error, None))
    entry = json.loads(JsonFormatter().format(record))
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "a.b", "x failed")
    assert "ZeroDivisionError" in entry["traceback"] and entry["time"].endswith("+00:00")
