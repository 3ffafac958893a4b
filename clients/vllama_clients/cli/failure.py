"""The exceptions of the commands, and the exit status of a command line."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class CommandFailed(Exception):
    """Ends the command; the message names cause and fix, `status` is the exit status."""

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class NotServed(CommandFailed):
    """The server has no such model (HTTP 404)."""


def exit_status(call: Callable[[], object]) -> int:
    """Runs a command line and returns its exit status; a failure is printed as one sentence, without a traceback."""
    try:
        call()
    except CommandFailed as failure:
        print(f"Error: {failure}", file=sys.stderr)
        return failure.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has ended (`vllama list | head -1`): without this Python would fail on stdout again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0
