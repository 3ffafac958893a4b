"""Sums up in one line a second whom a full queue has turned away.

A burst of refusals would drown the log, and writing its lines would take longer than the refusals themselves.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

SUMMARY_SECONDS = 1.0


class RefusalLog:
    """Counts refusals until they are written. `close` it at the end."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._count = 0
        self._clients: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, client: str) -> None:
        """Counts one; the line follows within a second."""
        self._count += 1
        self._clients.add(client)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SUMMARY_SECONDS, self._write)

    def close(self) -> None:
        """Writes what has been counted."""
        if self._timer is not None:
            self._timer.cancel()
            self._write()

    def _write(self) -> None:
        clients = f"{len(self._clients)} client{'s' if len(self._clients) > 1 else ''}"
        self._log.info("refused %d requests of %s: the queue is full", self._count, clients)
        self._timer, self._count = None, 0
        self._clients.clear()
