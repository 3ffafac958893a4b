"""Finds, in what a dead worker printed last, the line that says why."""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SAID = re.compile(r"^vllama(?: worker)?: (?P<message>.+)$")
_TEXT_ERROR = re.compile(r"^\S+ \S+ (?:ERROR|CRITICAL) \S+ [\w.]+: (?P<message>.+)$")
_EXCEPTION = re.compile(r"^(?P<message>[\w.]+(?:Error|Exception|Exit)\b.*)$")
_LONGEST = 1000


def cause_of(tail: Iterable[str], exit_status: int) -> str:
    """Gives the worker's own explanation, or how it ended when it left none."""
    lines = list(tail)
    for find in (_said, _logged, _raised):
        for line in reversed(lines):
            if message := find(line):
                return message[:_LONGEST]
    return ended_with(exit_status)


def ended_with(exit_status: int) -> str:
    """Words an exit status for people."""
    if exit_status >= 0:
        return f"it ended with status {exit_status}"
    try:
        name = signal.Signals(-exit_status).name
    except ValueError:
        name = f"signal {-exit_status}"
    return f"it was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _said(line: str) -> str:
    found = _SAID.match(line)
    return found["message"] if found else ""


def _logged(line: str) -> str:
    if found := _TEXT_ERROR.match(line):
        return found["message"]
    if not line.startswith("{"):
        return ""
    try:
        record = json.loads(line)
    except ValueError:
        return ""
    return str(record.get("message", "")) if record.get("level") in ("error", "critical") else ""


def _raised(line: str) -> str:
    found = _EXCEPTION.match(line)
    return found["message"] if found else ""
