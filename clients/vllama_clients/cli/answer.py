"""Prints an answer as it comes: reasoning dimmed on a terminal, statistics at the end when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

from vllama_clients.cli.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
NANOSECONDS = 1e9


class AnswerPrinter:
    """Writes chunks to a stream; reasoning only where it is not hidden, and dimmed on a terminal."""

    def __init__(self, out: TextIO, *, hide_thinking: bool = False) -> None:
        self._out = out
        self._dim, self._plain = (DIM, PLAIN) if out.isatty() else ("", "")
        self._hide_thinking = hide_thinking
        self._thinking = False

    def show(self, chunks: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Writes a whole answer and returns its last chunk; CommandFailed when that is missing."""
        last: dict[str, Any] = {}
        try:
            for chunk in self._awaited(iter(chunks)):
                self._write(chunk.get("message", {}))
                last = chunk
        finally:
            self._end_thinking()
            self._put("\n")
        if not last.get("done"):
            raise CommandFailed("The answer ended in the middle: the server closed the connection.")
        return last

    def _awaited(self, chunks: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Shows on a terminal that the first chunk is being waited for: a model may load for minutes."""
        if self._dim:
            with Console(file=self._out).status(""):
                first = next(chunks, None)
        else:
            first = next(chunks, None)
        if first is not None:
            yield first
            yield from chunks

    def _write(self, message: Mapping[str, Any]) -> None:
        thinking, content = message.get("thinking", ""), message.get("content", "")
        if thinking and not self._hide_thinking:
            if not self._thinking:
                self._thinking = True
                self._put(f"{self._dim}Thinking...\n")
            self._put(thinking)
        if content:
            self._end_thinking()
            self._put(content)
        for call in message.get("tool_calls", ()):
            self._put(f"{call['function']['name']}({call['function']['arguments']})\n")

    def _end_thinking(self) -> None:
        if self._thinking:
            self._thinking = False
            self._put(f"\n...done thinking.{self._plain}\n\n")

    def _put(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def statistics(last: Mapping[str, Any]) -> str:
    """Writes the counts and rates of a last chunk, one on a line."""
    prompt_tokens, tokens = last.get("prompt_eval_count", 0), last.get("eval_count", 0)
    prompt_seconds = last.get("prompt_eval_duration", 0) / NANOSECONDS
    seconds = last.get("eval_duration", 0) / NANOSECONDS
    found = {
        "total duration": f"{last.get('total_duration', 0) / NANOSECONDS:.3f} s",
        "load duration": f"{last.get('load_duration', 0) / NANOSECONDS:.3f} s",
        "prompt eval count": f"{prompt_tokens} tokens",
        "prompt eval rate": _rate(prompt_tokens, prompt_seconds),
        "eval count": f"{tokens} tokens",
        "eval rate": _rate(tokens, seconds),
    }
    return "\n".join(f"{name + ':':<20}{value}" for name, value in found.items())


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:.2f} tokens/s" if seconds else "-"
