"""Jobs: downloads and conversions as child processes, and the messages from them to the balancer.

A process can be killed in the middle of a blocking call, frees its memory with its end, and keeps its heavy imports
out of the balancer. It cannot outlive the balancer: it ends when its standard input closes, a pipe on which nothing
is ever written. On standard output it writes one JSON object a line: `{"status", "completed", "total", "digest"}`
while it runs, then `{"result": {...}}` or `{"error", "reason"}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
import threading
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vllama_balancer.gateway import Progress
from vllama_balancer.models.errors import BY_REASON, DoesNotFit, ModelError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
    from typing import TextIO

_LINE_LIMIT_BYTES = 1 << 20


class Reporter:
    """Writes a job's progress to its parent; called from any thread of the job."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def progress(self, step: Progress) -> None:
        self._write(asdict(step))

    def result(self, **values: Any) -> None:
        self._write({"result": values})

    def error(self, error: ModelError) -> None:
        self._write({"error": str(error), "reason": error.reason})

    def _write(self, message: dict[str, Any]) -> None:
        # One write per line: lines of several threads never mix.
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()


async def run_job(
    module: str, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> AsyncGenerator[Progress | dict[str, Any], None]:
    """Runs `python -m module arguments`; yields its progress, then its result.

    Closing the generator kills the process. Raises the ModelError that the job reported, else one that quotes the
    end of its standard error.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        limit=_LINE_LIMIT_BYTES, env=None if environment is None else dict(environment), start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    errors = asyncio.create_task(_tail(process))
    finished = False
    try:
        async for line in process.stdout:
            message = decode(line)
            if isinstance(message, dict) and "error" in message:
                raise BY_REASON.get(message.get("reason", ""), ModelError)(message["error"])
            finished = finished or isinstance(message, dict)
            if message is not None:
                yield message
        status = await process.wait()
        if not finished:
            raise ModelError(f"{module} ended with status {status}: {await errors or 'it said nothing'}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await errors


def job_main(work: Callable[[Reporter], None], *, memory_bytes: int | None = None) -> int:
    """Runs a job's work in its own process; standard output belongs to the reporter.

    `memory_bytes` is the most that the process may take. Returns the exit status: 0, or 1 after a reported error.
    """
    if memory_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    reporter = Reporter(sys.stdout)
    # Output of libraries must not be taken for a message.
    sys.stdout = sys.stderr
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(reporter)
    except ModelError as error:
        reporter.error(error)
        return 1
    except MemoryError:
        reporter.error(DoesNotFit("the work needs more memory than it may take; choose another version of the model"))
        return 1
    return 0


def _end_with_parent() -> None:
    # Read through the descriptor: closing sys.stdin at exit would wait for a reader inside it.
    while os.read(0, 4096):
        pass
    os._exit(1)


def decode(line: bytes) -> Progress | dict[str, Any] | None:
    """Returns the message in one line: a step, the result or an error; None if there is none."""
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
