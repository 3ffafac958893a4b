"""Renders chat templates that came with requests, each in a process that can be killed.

See `template_process` for the program of these processes and its limits. A template that runs out of them is the
request's mistake: it is refused, and no other worker gets it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vllama_server.errors import InvalidRequest
from vllama_server.vllm_adapter.template_process import GROWTH_BYTES, LENGTH, PROCESSOR_SECONDS, TEXT_BYTES

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Mapping

PROCESSES = 2
"""Templates rendered at once; further ones wait, and only requests with a template wait for them."""
WALL_SECONDS = 10.0
"""Longest wait for one result: a busy machine may be slow to give a process its two seconds."""
FIELD = "chat.template"

_PROGRAM = (sys.executable, "-m", "vllama_server.vllm_adapter.template_process")
_VARIABLES = ("PATH", "PYTHONPATH", "LANG", "TZ")
"""What the processes get of the environment: no keys and no tokens."""
_LIMITS = {
    "memory": f"needs more than {GROWTH_BYTES >> 20} MiB of memory",
    "text": f"makes a text of more than {TEXT_BYTES >> 20} MiB",
}


class TemplateRenderer:
    """A pool of rendering processes, which start with the first template."""

    def __init__(self, processes: int = PROCESSES) -> None:
        self._slots = asyncio.Semaphore(processes)
        self._idle: list[Process] = []
        self._is_closed = False

    async def render(self, job: Mapping[str, Any]) -> str:
        """Renders the arguments of `template_process.render`.

        Raises InvalidRequest. Cancelling it kills the process.
        """
        data = json.dumps(job).encode()
        async with self._slots:
            result = await self._run(LENGTH.pack(len(data)) + data)
        if "text" in result:
            return result["text"]
        reason = _LIMITS.get(result.get("limit", ""), f"cannot be rendered: {result.get('error', '')}")
        raise InvalidRequest(f"{FIELD} {reason}.", FIELD)

    async def close(self) -> None:
        """Ends the processes. May be called more than once."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        for process in idle:
            await _kill(process)

    async def _run(self, data: bytes) -> dict[str, str]:
        process = await self._process()
        is_whole = False
        try:
            async with asyncio.timeout(WALL_SECONDS):
                result = await _exchange(process, data)
            is_whole = True
        except TimeoutError:
            raise _too_slow() from None
        except (asyncio.IncompleteReadError, ConnectionError):
            await process.wait()
            if process.returncode == -signal.SIGPROF:
                raise _too_slow() from None
            raise InvalidRequest(f"{FIELD} cannot be rendered: it ended its process.", FIELD) from None
        finally:
            if is_whole and not self._is_closed:
                self._idle.append(process)
            else:
                await _kill(process)
        return result

    async def _process(self) -> Process:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
        environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        return await asyncio.create_subprocess_exec(*_PROGRAM, stdin=pipe, stdout=pipe, stderr=nothing, env=environment)


async def _exchange(process: Process, data: bytes) -> dict[str, str]:
    assert process.stdin is not None, "it was started with pipes"
    assert process.stdout is not None, "it was started with pipes"
    process.stdin.write(data)
    await process.stdin.drain()
    (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
    result: dict[str, str] = json.loads(await process.stdout.readexactly(length))
    return result


async def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _too_slow() -> InvalidRequest:
    return InvalidRequest(f"{FIELD} takes more than {PROCESSOR_SECONDS:g} s to render; give one that does less.", FIELD)
