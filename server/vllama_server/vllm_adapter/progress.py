"""Progress of a start, read from vLLM's log: it has no other way to tell.

Each entry of the table is a phrase of vLLM's and how far the start is when it appears. The
fractions are shares of the phase's usual time; an unknown log line changes nothing, so a new
wording costs detail and never correctness.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vllama_server.engine.protocol import StartPhase

if TYPE_CHECKING:
    from collections.abc import Callable

_MILESTONES = (
    ("Initializing a V1 LLM engine", StartPhase.LOAD, 0.3),
    ("Starting to load model", StartPhase.LOAD, 0.7),
    ("Time spent downloading weights", StartPhase.DOWNLOAD, 1.0),
    ("Loading weights took", StartPhase.LOAD, 0.9),
    ("Model loading took", StartPhase.LOAD, 1.0),
    ("Warming up model for the compilation", StartPhase.COMPILE, 0.1),
    ("torch.compile takes", StartPhase.COMPILE, 0.6),
    ("Available KV cache memory", StartPhase.COMPILE, 0.7),
    ("KV cache size", StartPhase.COMPILE, 0.8),
    ("Graph capturing finished", StartPhase.COMPILE, 0.95),
    ("init engine (profile, create kv cache", StartPhase.COMPILE, 1.0),
)
_ORDER = tuple(StartPhase)


class StartProgress:
    """Turns log lines of any process into ever advancing progress. Safe to call from any thread."""

    def __init__(self, tell: Callable[[StartPhase, float], None]) -> None:
        self._tell = tell
        self._reached = (-1, 0.0)

    def reach(self, phase: StartPhase, fraction: float = 0.0) -> None:
        """Tells that the start is so far, unless it is farther already."""
        place = (_ORDER.index(phase), fraction)
        if place > self._reached:
            self._reached = place
            self._tell(phase, fraction)

    def read(self, message: str) -> None:
        """Takes one log message."""
        for phrase, phase, fraction in _MILESTONES:
            if phrase in message:
                self.reach(phase, fraction)
                return


class ProgressHandler(logging.Handler):
    """Reads the log of this very process."""

    def __init__(self, progress: StartProgress) -> None:
        super().__init__(logging.INFO)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Takes one record."""
        self._progress.read(record.getMessage())
