"""How far a download or conversion is, and how that crosses from the process that does it.

One JSON object a line on standard output: `{"status", "completed", "total", "digest"}` while it runs, then
`{"result": {...}}` or `{"error", "reason"}`. Lines are for the parent; people get them rendered.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TextIO

    from vllama_balancer.models.errors import ModelError


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a long task."""

    status: str
    """What is being done, for people: "converting tensors"."""
    completed: int = 0
    """How much of `total` is done."""
    total: int = 0
    """How much there is; 0 when that is not known."""
    digest: str = ""
    """The file that is meant, as "sha256:<64 hex>"; empty when no single one is."""


class Reporter:
    """Writes a job's progress to its parent; called from any thread of the job."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def progress(self, step: Progress) -> None:
        """Tells a step."""
        self._write(asdict(step))

    def result(self, **values: Any) -> None:
        """Tells the end, with what the parent needs to know."""
        self._write({"result": values})

    def error(self, error: ModelError) -> None:
        """Tells that the job has failed."""
        self._write({"error": str(error), "reason": error.reason})

    def _write(self, message: dict[str, Any]) -> None:
        # One write per line: lines of several threads never mix.
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()
