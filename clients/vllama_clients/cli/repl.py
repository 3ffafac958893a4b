"""The conversation of `vllama run` on a terminal: questions, and commands that begin with "/".

Ctrl-C ends the running answer and keeps its text so far, or ends the running command; at the prompt it only clears
the line.
Ctrl-D or /bye ends the conversation.
"""

from __future__ import annotations

import readline
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from vllama_clients.cli.answer import AnswerPrinter, statistics
from vllama_clients.cli.failure import CommandFailed
from vllama_clients.cli.slash_commands import ConversationEnded, Settings, run_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_clients.cli.api import Api
    from vllama_clients.cli.chat import Chat

PROMPT, CONTINUED = ">>> ", "... "
FENCE = '"""'
HISTORY_LINES = 1000


class Repl:
    """Holds one conversation. `read` reads a line after a prompt, as `input` does, EOFError at the end."""

    def __init__(
        self,
        api: Api,
        chat: Chat,
        *,
        hide_thinking: bool = False,
        verbose: bool = False,
        read: Callable[[str], str] = input,
        out: TextIO | None = None,
    ) -> None:
        self._api = api
        self._settings = Settings(chat, verbose=verbose)
        self._hide_thinking = hide_thinking
        self._read = read
        self._out = out or sys.stdout

    def run(self) -> None:
        """Reads and answers until /bye or Ctrl-D."""
        with suppress(ConversationEnded, EOFError), _LineHistory(self._read):
            self._say("Send a message (/? for help)")
            while True:
                self._turn()
        self._say("")

    def _turn(self) -> None:
        try:
            text = self._message()
        except KeyboardInterrupt:
            self._say("\nUse Ctrl-D or /bye to leave.")
            return
        if text.startswith("/"):
            self._run_command(text)
        elif text.strip():
            self._answer(text)

    def _message(self) -> str:
        r"""Reads one message: a line, or everything between a pair of \"\"\"."""
        line = self._read(PROMPT)
        if not line.lstrip().startswith(FENCE):
            return line.strip()
        lines = [line.lstrip().removeprefix(FENCE)]
        while FENCE not in lines[-1]:
            lines.append(self._read(CONTINUED))
        return "\n".join(lines).partition(FENCE)[0]

    def _run_command(self, text: str) -> None:
        try:
            self._say(run_command(text, self._settings, self._api))
        except CommandFailed as failure:
            self._say(f"{failure}")
        except KeyboardInterrupt:
            self._say("")

    def _answer(self, text: str) -> None:
        try:
            # Closing the stream closes the connection, and the server ends the generation.
            with closing(self._settings.chat.ask(self._api, text)) as chunks:
                last = AnswerPrinter(self._out, hide_thinking=self._hide_thinking).show(chunks)
        except KeyboardInterrupt:
            return
        except CommandFailed as failure:
            self._say(f"Error: {failure}")
            return
        self._say(f"\n{statistics(last)}\n" if self._settings.verbose else "")

    def _say(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()


class _LineHistory:
    """Keeps the lines that were typed, across conversations, where `input` reads them with readline."""

    def __init__(self, read: Callable[[str], str]) -> None:
        self._path = Path.home() / ".local" / "state" / "vllama" / "history" if read is input else None

    def __enter__(self) -> None:
        if self._path is not None:
            with suppress(OSError):
                readline.read_history_file(self._path)
            readline.set_history_length(HISTORY_LINES)

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            with suppress(OSError):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                readline.write_history_file(self._path)
                self._path.chmod(0o600)
