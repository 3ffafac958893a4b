"""A server as a child process: started, awaited, ended in every case, its log kept."""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING

from vllama_clients.cli.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence

STOP_TIMEOUT_SECONDS = 60.0
LOG_TAIL_CHARACTERS = 2000


class ServerProcess:
    """A running process and its log."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        self.pid = process.pid
        """Its process id."""
        self._name = name
        self._process = process
        self._log = log

    async def until(self, ready: Coroutine[None, None, None], timeout_seconds: float) -> None:
        """Waits until `ready` returns; CommandFailed when the process ends before, or the time is over."""
        ended, waiting = asyncio.create_task(self._process.wait()), asyncio.create_task(ready)
        try:
            await asyncio.wait((ended, waiting), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
            elif ended.done():
                raise CommandFailed(f"{self._name} ended with status {ended.result()} while it started:\n{self.tail()}")
            else:
                raise CommandFailed(f"{self._name} was not ready within {timeout_seconds:g} s:\n{self.tail()}")
        finally:
            ended.cancel()
            waiting.cancel()
            await asyncio.gather(ended, waiting, return_exceptions=True)

    async def end(self) -> None:
        """Sends SIGTERM and waits. CommandFailed if it does not end with status 0."""
        if self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                status = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise CommandFailed(f"{self._name} did not end within {STOP_TIMEOUT_SECONDS:g} s; it was killed.") from None
        if status != 0:
            raise CommandFailed(f"{self._name} ended with status {status}:\n{self.tail()}")

    def tail(self) -> str:
        """Returns the end of its log."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip()[-LOG_TAIL_CHARACTERS:]


@asynccontextmanager
async def started(
    name: str, program: Sequence[str], environment: Mapping[str, str] | None = None
) -> AsyncIterator[ServerProcess]:
    """Runs a program and ends it afterwards; `name` stands in error messages. No environment means this process's."""
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(*program, stdout=log, stderr=log, env=environment)
        server = ServerProcess(name, process, log)
        try:
            yield server
        finally:
            await server.end()


def free_ports(count: int) -> list[int]:
    """Returns ports that were free a moment ago; all are held until all are found, so they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
