"""The progress of an installation in text: one line that changes on a terminal, few plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from vllama_balancer.gateway import Progress

_PERCENT_PER_LINE = 20


class ProgressLines:
    """Writes the progress of one installation."""

    def __init__(self, stream: TextIO, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._name = name
        self._clock = clock
        self._start = clock()
        self._on_terminal = stream.isatty()
        self._shown = ("", 0)

    def show(self, step: Progress) -> None:
        """Writes a step, unless it shows nothing new."""
        percent = step.completed * 100 // step.total if step.total else 0
        shown = (step.status, percent if self._on_terminal else percent - percent % _PERCENT_PER_LINE)
        if shown == self._shown:
            return
        self._shown = shown
        share = f" {percent}%" if step.total else ""
        text = f"{self._name}: {step.status}{share} ({self._clock() - self._start:.0f} s)"
        self._stream.write(f"\r\x1b[2K{text}" if self._on_terminal else f"{text}\n")
        self._stream.flush()

    def end(self) -> None:
        """Ends the line."""
        if self._on_terminal and self._shown[0]:
            self._stream.write("\n")
            self._stream.flush()
