"""The scripted servers of the clients' tests, and the measuring commands run against them in this process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.clients.cli.conftest import Done, environment, ollama  # noqa: F401
from tests.clients.conftest import certificate, server  # noqa: F401
from vllama_benchmarks.bench.command import command as bench
from vllama_benchmarks.command import run
from vllama_benchmarks.demo.command import command as demo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

COMMANDS = {"bench": bench, "demo": demo}


@pytest.fixture
def vllama(
    environment: dict[str, str],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Awaitable[Done]]:
    """Runs what `vllama NAME ARGUMENTS` becomes, beside the event loop."""

    async def call(name: str, *arguments: str) -> Done:
        capsys.readouterr()
        status = await asyncio.to_thread(run, name, COMMANDS[name], arguments, environment)
        return Done(status, *capsys.readouterr())

    return call
