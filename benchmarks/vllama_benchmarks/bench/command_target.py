"""A target that is a program, for example a bare engine without a server.

The program is started once and writes {"ready": true} first. It reads a line of JSON per request, {"id": …,
"prompt": …, "max_tokens": …}, runs them concurrently, and writes a line per answer, {"id": …, "seconds": …,
"ttft_seconds": …, "tokens": …, "prompt_tokens": …, "error": …}. Times are by its own clock, so that pipes are not
measured. It ends with its input. Its standard error is kept: the last line is the reason if it ends too early.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import tempfile
from contextlib import asynccontextmanager
from itertools import count
from typing import IO, TYPE_CHECKING, Any

from vllama_benchmarks.bench.sample import Request, Sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

END_TIMEOUT_SECONDS = 30.0
LINE_LIMIT_BYTES = 1 << 24


class CommandTarget:
    """A program, started by the first session and shared by all; `close` ends it."""

    def __init__(self, command: str) -> None:
        self._arguments = shlex.split(command)
        self._numbers = count()
        self._answers: dict[int, asyncio.Future[Sample]] = {}
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._log: IO[bytes] | None = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[CommandTarget]:
        """Starts the program if it does not run. OSError when it cannot be started."""
        async with self._starting:
            if self._process is None:
                await self._start()
        yield self

    async def run(self, request: Request) -> Sample:
        """Sends a request to the program and waits for its answer."""
        if self._process is None or self._process.stdin is None or self._reading is None or self._reading.done():
            return Sample(0.0, error=f"the program has ended{self._last_log_line()}")
        number = next(self._numbers)
        answer: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        line = {"id": number, "prompt": request.prompt, "max_tokens": request.max_tokens}
        try:
            self._process.stdin.write(json.dumps(line).encode() + b"\n")
            return await answer
        finally:
            del self._answers[number]

    async def close(self) -> None:
        """Closes the program's input, and kills it if it does not end in time."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            async with asyncio.timeout(END_TIMEOUT_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading
        if self._log is not None:
            self._log.close()
        self._process = None

    async def _start(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the program runs; `close` closes it
        self._process = await asyncio.create_subprocess_exec(
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._log,
            limit=LINE_LIMIT_BYTES,
        )
        ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read(ready))
        await ready.wait()

    async def _read(self, ready: asyncio.Event) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                if line.startswith(b"{"):
                    self._take(json.loads(line), ready)
        finally:
            ready.set()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_result(Sample(0.0, error=f"the program ended in the middle{self._last_log_line()}"))

    def _last_log_line(self) -> str:
        """Returns the last line of the program's standard error."""
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def _take(self, line: dict[str, Any], ready: asyncio.Event) -> None:
        answer = self._answers.get(line.get("id", -1))
        if line.get("ready"):
            ready.set()
        elif answer is not None and not answer.done():
            answer.set_result(
                Sample(
                    seconds=float(line["seconds"]),
                    ttft_seconds=line.get("ttft_seconds"),
                    tokens=int(line.get("tokens", 0)),
                    prompt_tokens=int(line.get("prompt_tokens", 0)),
                    error=str(line.get("error", "")),
                )
            )
