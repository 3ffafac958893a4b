"""One worker process on this machine: its command line, its log, its end, and the reason of a crash.

Nothing that a worker starts outlives it: its process group is killed when it has ended. The worker ends with this
process, however that ends: it holds one end of a socket pair, the lifeline, whose other end is only here. The worker
writes one byte into it when it is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vllama_balancer.config.settings import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vllama_balancer.fleet.assignment import WorkerSpec

TAIL_LINES = 200
"""Last lines of the log that are kept to explain a crash."""
LOG_GRACE_SECONDS = 1.0
"""How long the last lines of a process may take after its end."""
_CHUNK_BYTES = 1 << 16
_LONGEST_LINE = 1 << 16
_OWN_MESSAGE = re.compile(r"^vllama(?: worker)?: (?P<message>.+)$")
"""A worker's last sentence, as vllama_server.main prints it."""
_TEXT_ERROR = re.compile(r"^\S+ \S+ (?:ERROR|CRITICAL) \S+ [\w.]+: (?P<message>.+)$")
"""An error in the text format of vllama_server.logs."""
_EXCEPTION = re.compile(r"^(?P<message>[\w.]+(?:Error|Exception|Exit)\b.*)$")
_LONGEST_REASON = 1000


class Exit(NamedTuple):
    """How a worker's process ended."""

    status: int
    """Exit status, negative for a signal."""
    cause: str
    """Cause in one sentence, the worker's own if it gave one."""
    was_ready: bool = False
    """Whether it had been able to serve."""


class LogSink(Protocol):
    """Takes the lines that workers print."""

    def line(self, worker: str, text: str) -> None:
        """Takes one line, without its end."""
        ...


def write_line(sink: LogSink, worker: str, text: str) -> None:
    """Writes one line. On a full disk it is lost: a reader that stopped would block the process that prints."""
    with contextlib.suppress(OSError):
        sink.line(worker, text)


async def log_end(log: asyncio.Task[None]) -> None:
    """Waits for the last lines of a process that has ended, and stops reading if a child keeps its pipe open."""
    await asyncio.wait({log}, timeout=LOG_GRACE_SECONDS)
    log.cancel()
    await asyncio.wait({log})


def worker_command(spec: WorkerSpec, address: str, parent_fd: int) -> list[str]:
    command = [sys.executable, "-m", "vllama_server", spec.model.argument, "--listen", address, "--name", spec.name]
    for name in spec.model.names:
        command += ["--served-name", name]
    if not address.startswith("unix:"):
        # Of a node of a Ray cluster, whose network is trusted with everything else, too.
        command.append("--insecure")
    command += ["--engine", spec.engine, "--device", spec.device, "--parent-fd", str(parent_fd), *spec.flags]
    return command


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment without the balancer's own settings: a worker has variables of the same names."""
    return {name: value for name, value in environment.items() if name not in VARIABLES}


class Launcher:
    """Starts worker processes."""

    def __init__(
        self,
        sink: LogSink,
        environment: Mapping[str, str],
        command: Callable[[WorkerSpec, str, int], Sequence[str]] = worker_command,
    ) -> None:
        self._sink = sink
        self._environment = environment
        self._command = command

    async def start(self, spec: WorkerSpec, address: str) -> WorkerProcess:
        """Starts a worker. Raises OSError."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            lifeline, parent = socket.socketpair()
            ours.enter_context(lifeline)
            theirs.enter_context(parent)
            # Not asyncio's own pipe: it reports the end of a worker only once the worker's last child has closed it.
            log_fd, stdout_fd = os.pipe()
            ours.callback(os.close, log_fd)
            theirs.callback(os.close, stdout_fd)
            process = await asyncio.create_subprocess_exec(
                *self._command(spec, address, parent.fileno()), env={**self._environment, **spec.environment},
                stdin=asyncio.subprocess.DEVNULL, stdout=stdout_fd, stderr=asyncio.subprocess.STDOUT,
                start_new_session=True, pass_fds=(parent.fileno(),),
            )  # fmt: skip
            ours.pop_all()
        return WorkerProcess(spec.name, process, lifeline, log_fd, self._sink)


class WorkerProcess:
    """A running worker. Made by a Launcher; always await `ended` or `stop` in the end."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, lifeline: socket.socket, log_fd: int, sink: LogSink
    ) -> None:
        self.pid = process.pid
        """Process id, which is the id of its group as well."""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        """The last lines that it printed."""
        self.was_ready = False
        """Whether it had been able to serve; known once it has ended."""
        self._name = name
        self._process = process
        self._lifeline = lifeline
        self._sink = sink
        self._log = asyncio.create_task(self._pump(log_fd), name=f"log of {name}")
        self._end = asyncio.create_task(self._wait(), name=f"end of {name}")

    async def ended(self) -> int:
        """Waits for the end of the whole process group; returns the exit status, negative for a signal."""
        return await asyncio.shield(self._end)

    async def exited(self) -> Exit:
        """Waits as `ended` does; returns how it ended, and why."""
        status = await self.ended()
        return Exit(status, crash_reason(self.tail, status), self.was_ready)

    async def stop(self, timeout_seconds: float) -> int:
        """Asks the worker to drain and end, and kills it after the time-out."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                return await asyncio.shield(self._end)
        self.kill()
        return await self.ended()

    def kill(self) -> None:
        """Kills the worker and everything that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _wait(self) -> int:
        try:
            status = await self._process.wait()
        finally:
            # Children that survive the worker would hold its GPU, and the log's other end.
            self.kill()
            self.was_ready = _has_byte(self._lifeline)
            self._lifeline.close()
        await log_end(self._log)
        return status

    async def _pump(self, log_fd: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(log_fd, "rb", buffering=0)
        )
        try:
            await self._split(reader)
        finally:
            transport.close()

    async def _split(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await reader.read(_CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            self._take(lines)
            if len(rest) > _LONGEST_LINE:
                self._take([rest])
                rest = b""
        self._take([rest])

    def _take(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            # A progress bar rewrites its line: only what stands at the end counts.
            text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2].rstrip()
            if text:
                self.tail.append(text)
                write_line(self._sink, self._name, text)


def _has_byte(lifeline: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return bool(lifeline.recv(1, socket.MSG_DONTWAIT))
    return False


def crash_reason(tail: Iterable[str], exit_status: int) -> str:
    """Returns the worker's own last message, else its last logged error or exception, else its exit status in words."""
    lines = list(tail)
    for find in (_own_message, _logged_error, _exception):
        for line in reversed(lines):
            if message := find(line):
                return message[:_LONGEST_REASON]
    return describe_exit(exit_status)


def describe_exit(exit_status: int) -> str:
    if exit_status >= 0:
        return f"it ended with status {exit_status}"
    try:
        name = signal.Signals(-exit_status).name
    except ValueError:
        name = f"signal {-exit_status}"
    return f"it was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _own_message(line: str) -> str:
    found = _OWN_MESSAGE.match(line)
    return found["message"] if found else ""


def _logged_error(line: str) -> str:
    if found := _TEXT_ERROR.match(line):
        return found["message"]
    if not line.startswith("{"):
        return ""
    try:
        record = json.loads(line)
    except ValueError:
        return ""
    return str(record.get("message", "")) if record.get("level") in ("error", "critical") else ""


def _exception(line: str) -> str:
    found = _EXCEPTION.match(line)
    return found["message"] if found else ""
