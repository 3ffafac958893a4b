"""How far a download or conversion is, and how that crosses from the process that does it.

One JSON object a line on standard output: `{"status", "completed", "total", "digest"}` while it runs, then
`{"result": {...}}` or `{"error", "reason"}`. Lines are for the parent; people get them rendered.

Runs a download or conversion as a process of its own.

A process can be cancelled in the middle of a blocking call, takes its memory with it, and its heavy
imports never reach the balancer. It also cannot outlive the balancer: it ends when its standard input,
a pipe that nobody writes to, closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vllama_balancer.gateway import Progress
from vllama_balancer.models.errors import BY_REASON, ModelError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from typing import TextIO


class Reporter:
    """Writes a job's progress to its parent; called from any thread of the job."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def progress(self, step: Progress) -> None:
        """Tells a step."""
        self._write(asdict(step))

    def result(self, **values: Any) -> None:
        """Tells the end, with what the parent needs to know."""
        self._write({"result": values})

    def error(self, error: ModelError) -> None:
        """Tells that the job has failed."""
        self._write({"error": str(error), "reason": error.reason})

    def _write(self, message: dict[str, Any]) -> None:
        # One write per line: lines of several threads never mix.
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()


_LINE_LIMIT_BYTES = 1 << 20


async def run_job(
    module: str, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> AsyncGenerator[Progress | dict[str, Any], None]:
    """Runs `python -m module arguments`; yields its progress, then its result.

    Closing the generator kills the process. Raises the ModelError that the job reported, or one that
    quotes the end of its standard error.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        limit=_LINE_LIMIT_BYTES, env=None if environment is None else dict(environment), start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    complaints = asyncio.create_task(_tail(process))
    finished = False
    try:
        async for line in process.stdout:
            message = decoded(line)
            if isinstance(message, dict) and "error" in message:
                raise BY_REASON.get(message.get("reason", ""), ModelError)(message["error"])
            finished = finished or isinstance(message, dict)
            if message is not None:
                yield message
        status = await process.wait()
        if not finished:
            raise ModelError(f"{module} ended with status {status}: {await complaints or 'it said nothing'}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await complaints


def job_main(work: Callable[[Reporter], None]) -> int:
    """Runs a job's work in its own process, where standard output belongs to the reporter.

    Returns the exit status: 0, or 1 after a reported ModelError.
    """
    reporter = Reporter(sys.stdout)
    # Whatever a library prints must not be taken for a message.
    sys.stdout = sys.stderr
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(reporter)
    except ModelError as error:
        reporter.error(error)
        return 1
    return 0


def _end_with_parent() -> None:
    # Read through the descriptor: closing sys.stdin at exit would wait for a reader inside it.
    while os.read(0, 4096):
        pass
    os._exit(1)


def decoded(line: bytes) -> Progress | dict[str, Any] | None:
    """Reads one line of a job: a step, its result or its error; None for what is no message."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    if "result" in message:
        return dict(message["result"])
    return message if "error" in message else Progress(**message)


async def _tail(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    last: deque[str] = deque(maxlen=1)
    with contextlib.suppress(ValueError):  # a progress bar may write one endless line
        async for line in process.stderr:
            if text := line.decode(errors="replace").strip():
                last.append(text.rpartition("\r")[2][:500])
    return last[0] if last else ""
