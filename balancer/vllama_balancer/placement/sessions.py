"""Remembers where each conversation was served last: a hint that breaks ties, and nothing more.

The belief about prefixes usually knows better; a session helps where two turns share too little
text to be recognised, as with pictures or token ids that a client has shortened.
"""

from __future__ import annotations

from collections import OrderedDict

MOST_SESSIONS = 10_000
"""The least recently seen are forgotten beyond this many."""


class Sessions:
    """The last worker of each session."""

    def __init__(self) -> None:
        # Least recently seen first.
        self._workers: OrderedDict[str, str] = OrderedDict()

    def went(self, session: str, worker: str) -> None:
        """Notes where a session's request went; no session is no news."""
        if not session:
            return
        self._workers[session] = worker
        self._workers.move_to_end(session)
        if len(self._workers) > MOST_SESSIONS:
            self._workers.popitem(last=False)

    def hint(self, session: str) -> dict[str, int]:
        """Weighs the session's last worker with one cached token: enough to win among equals."""
        worker = self._workers.get(session)
        return {} if worker is None else {worker: 1}
