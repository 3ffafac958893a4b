"""Targets that speak HTTP: Ollama's /api/chat and OpenAI's /v1/chat/completions.

Only the lines up to the first text, and the last one, are parsed; the server counts the tokens. So the generator spends
next to nothing on a token.
"""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from vllama_benchmarks.bench.access import Access
from vllama_benchmarks.bench.http1 import HttpConnection, HttpError, Url
from vllama_benchmarks.bench.sample import Request, Sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

DATA = b"data: "
DONE = b"[DONE]"
OK = 200
TAIL_LINES = 4


class Dialect(Protocol):
    """Requests and answers of one HTTP API."""

    path: str
    """Where requests go."""

    def body(self, model: str, request: Request) -> dict[str, Any]:
        """Builds the body of a request."""
        ...

    def message(self, line: bytes) -> dict[str, Any] | None:
        """Reads one line of the answer; None for a line without a message."""
        ...

    def has_text(self, message: dict[str, Any]) -> bool:
        """Returns whether a message carries text."""
        ...

    def counts(self, last: dict[str, Any]) -> tuple[int, int] | None:
        """Reads prompt and output tokens from the last message; None when it does not end the answer."""
        ...


class OllamaDialect:
    """/api/chat: a JSON object per line."""

    path = "/api/chat"

    def body(self, model: str, request: Request) -> dict[str, Any]:
        """Greedy; `ignore_eos` is vllama's own option, which Ollama ignores."""
        options = {"num_predict": request.max_tokens, "temperature": 0, "ignore_eos": True}
        return {"model": model, "messages": [{"role": "user", "content": request.prompt}], "options": options}

    def message(self, line: bytes) -> dict[str, Any] | None:
        return _json(line) if line else None

    def has_text(self, message: dict[str, Any]) -> bool:
        content = message.get("message", {})
        return bool(content.get("content") or content.get("thinking"))

    def counts(self, last: dict[str, Any]) -> tuple[int, int] | None:
        """Reads the counts of the last line, which has `done`."""
        if not last.get("done"):
            return None
        return int(last.get("prompt_eval_count", 0)), int(last.get("eval_count", 0))


class OpenAiDialect:
    """/v1/chat/completions: server-sent events."""

    path = "/v1/chat/completions"

    def body(self, model: str, request: Request) -> dict[str, Any]:
        """Greedy; `ignore_eos` is understood by vLLM and vllama."""
        return {
            "model": model,
            "messages": [{"role": "user", "content": request.prompt}],
            "max_tokens": request.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }

    def message(self, line: bytes) -> dict[str, Any] | None:
        """Reads an event's line; the end of the stream is no message."""
        line = line.rstrip(b"\r")
        if not line.startswith(DATA) or line.endswith(DONE):
            return None
        return _json(line[len(DATA) :])

    def has_text(self, message: dict[str, Any]) -> bool:
        deltas = [choice.get("delta", {}) for choice in message.get("choices", ())]
        return any(delta.get(key) for delta in deltas for key in ("content", "reasoning", "reasoning_content"))

    def counts(self, last: dict[str, Any]) -> tuple[int, int] | None:
        """Reads the usage of the last event."""
        usage = last.get("usage")
        return None if not usage else (int(usage["prompt_tokens"]), int(usage["completion_tokens"]))


class HttpTarget:
    """A server with one of the two APIs."""

    def __init__(
        self,
        url: str,
        dialect: Dialect,
        model: str,
        *,
        access: Access | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        access = access or Access()
        self._url = Url.parse(url)
        self._dialect = dialect
        self._model = model
        self._headers = access.http_headers()
        self._tls = access.http_tls() if self._url.tls else None
        self._clock = clock

    @asynccontextmanager
    async def session(self) -> AsyncIterator[HttpSession]:
        """Opens one connection's worth of requests."""
        connection = HttpConnection(self._url, self._headers, self._tls)
        try:
            yield HttpSession(connection, self._dialect, self._model, self._clock)
        finally:
            connection.close()


class HttpSession:
    """One connection to the server."""

    def __init__(self, connection: HttpConnection, dialect: Dialect, model: str, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._dialect = dialect
        self._model = model
        self._clock = clock

    async def run(self, request: Request) -> Sample:
        """Sends a request and reads its answer to the end."""
        body = json.dumps(self._dialect.body(self._model, request)).encode()
        reading = _Reading(self._dialect, self._clock)
        begun = self._clock()
        try:
            status = await self._connection.post(self._dialect.path, body, reading.add)
            return reading.sample(status, begun, self._clock())
        except (OSError, HttpError, ValueError) as error:
            return reading.broken(begun, self._clock(), str(error) or type(error).__name__)


class _Reading:
    """The part of one answer that is needed: the time of the first text, and the last lines."""

    def __init__(self, dialect: Dialect, clock: Callable[[], float]) -> None:
        self._dialect = dialect
        self._clock = clock
        self._pending = b""
        self._tail: list[bytes] = []
        self._first: float | None = None

    def add(self, data: bytes) -> None:
        complete, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._pending += data
            return
        lines, self._pending = (self._pending + complete).split(b"\n"), rest
        if self._first is None and any(self._dialect.has_text(message) for message in self._messages(lines)):
            self._first = self._clock()
        # The last message may be followed by blank lines and the end's mark.
        self._tail = (self._tail + lines)[-TAIL_LINES:]

    def sample(self, status: int, begun: float, ended: float) -> Sample:
        """Returns the sample of a whole answer. ValueError when its end is none of the dialect."""
        messages = self._messages([*self._tail, self._pending])
        last = messages[-1] if messages else {}
        if status != OK or "error" in last:
            return self.broken(begun, ended, _error(last) or f"status {status}")
        counts = self._dialect.counts(last)
        if counts is None:
            return self.broken(begun, ended, "the answer ended in the middle")
        return Sample(ended - begun, self._since(begun), tokens=counts[1], prompt_tokens=counts[0])

    def broken(self, begun: float, ended: float, error: str) -> Sample:
        return Sample(ended - begun, self._since(begun), error=error)

    def _since(self, begun: float) -> float | None:
        return None if self._first is None else self._first - begun

    def _messages(self, lines: list[bytes]) -> list[dict[str, Any]]:
        found = (self._dialect.message(line) for line in lines)
        return [message for message in found if message is not None]


def _json(text: bytes) -> dict[str, Any]:
    message = json.loads(text)
    if not isinstance(message, dict):
        raise ValueError(f"a line of the answer is {text[:40]!r}, no object")
    return message


def _error(message: dict[str, Any]) -> str:
    error = message.get("error", "")
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
