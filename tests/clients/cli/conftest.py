"""A scripted server, and the command run against it as a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.clients.cli.ollama_server import OllamaServer, ollama_server
from vllama_clients.cli.main import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
async def ollama() -> AsyncIterator[OllamaServer]:
    """A scripted Ollama server."""
    async with ollama_server() as server:
        yield server


@pytest.fixture
def environment(ollama: OllamaServer, tmp_path: Path) -> dict[str, str]:
    """The environment of a command: the scripted server, and nothing of this machine's user."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLLAMA_", "OLLAMA_"))}
    return kept | {"VLLAMA_HOST": ollama.url, "HOME": str(tmp_path), "COLUMNS": "100", "NO_COLOR": "1"}


@pytest.fixture
def vllama(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Callable[..., Awaitable[Done]]:
    """Runs `vllama ARGUMENTS` in this process, beside the event loop."""

    async def call(*arguments: str, **variables: str) -> Done:
        capsys.readouterr()
        status = await asyncio.to_thread(run, arguments, environment | variables)
        return Done(status, *capsys.readouterr())

    return call


@pytest.fixture
def vllama_process(environment: dict[str, str]) -> Callable[..., Awaitable[Done]]:
    """Runs `vllama ARGUMENTS` as a process of its own, with `stdin` piped in; None closes its standard input."""

    async def call(*arguments: str, stdin: str | None = "", **variables: str) -> Done:
        process = await asyncio.create_subprocess_exec(
            *(("sh", "-c", 'exec "$@" <&-', "sh") if stdin is None else ()),
            *(sys.executable, "-m", "vllama_clients.cli", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment | variables,
        )
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                out, err = await process.communicate((stdin or "").encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Done(process.returncode or 0, out.decode(), err.decode())

    return call
