"""What a command raises when it cannot do its work: one sentence, printed without a traceback."""

from __future__ import annotations


class CommandFailed(Exception):
    """Ends the command; `str()` says what is wrong and what to do, `status` is the exit status."""

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class NotServed(CommandFailed):
    """The server answered that it does not have what was asked for (HTTP 404)."""
