"""The ready-made comparison: one model behind every door there is, started here, measured in one run.

From the inside out: the bare engine (a program of the caller's), a worker by gRPC, the balancer by
gRPC, its /api/chat and its /v1/chat/completions, and vLLM's own OpenAI server. All are up at once
and take turns, so each ratio is between two measurements a moment apart; what is idle waits.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from vllama_clients.cli.failure import CommandFailed
from vllama_clients.demo.fleet import BALANCER, started_fleet
from vllama_clients.demo.process import free_ports, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

VLLM_SERVER = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
RESOLVER = (sys.executable, "-m", "vllama_balancer.models", "resolve")
RETRY_SECONDS = 0.5
DOORS = ("bare", "worker", "balancer", "chat", "v1", "vllm")
"""Names of all that can be compared."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared."""

    model: str
    """The model's name."""
    engine: str = "vllm"
    """"vllm", or "fake", which has no server of its own to be compared with."""
    bare: str = ""
    """Program that is the bare engine, as command_target.py describes it; empty leaves it out."""
    serve_flags: Sequence[str] = ()
    """Further flags of the balancer."""
    vllm_flags: Sequence[str] = ()
    """Further flags of vLLM's own server."""
    start_timeout_seconds: float = 600.0
    """Most time for each server to become ready."""
    balancer: Sequence[str] = BALANCER
    """How the balancer is called."""
    vllm_server: Sequence[str] = VLLM_SERVER
    """How vLLM's own server is called."""
    resolver: Sequence[str] = RESOLVER
    """Prints the directory of a model's weights, for vLLM's own server."""


@dataclass(frozen=True, slots=True)
class Doors:
    """Targets and watches, as specification.py reads them."""

    targets: Sequence[str]
    """The first is what the others are compared with."""
    watches: Sequence[str]
    """The balancer's process, for the targets that go through it."""


@asynccontextmanager
async def opened(comparison: Comparison, say: Callable[[str], None]) -> AsyncIterator[Doors]:
    """Starts what is compared and ends it afterwards. CommandFailed when something does not start."""
    async with AsyncExitStack() as stack:
        flags = ["--engine", comparison.engine, *comparison.serve_flags]
        timeout_seconds = comparison.start_timeout_seconds
        fleet = await stack.enter_async_context(
            started_fleet(comparison.model, 1, flags, timeout_seconds, say, comparison.balancer)
        )
        targets = [f"bare=command:{comparison.bare}"] if comparison.bare else []
        targets += [f"worker=grpc:{fleet.workers[0]}", f"balancer=grpc:{fleet.grpc_target}"]
        targets += [f"chat=ollama:{fleet.url}", f"v1=openai:{fleet.url}"]
        if comparison.engine == "vllm":
            say("vLLM's own server: starting")
            targets.append(f"vllm=openai:{await stack.enter_async_context(_vllm_server(comparison))}")
        yield Doors(targets, [f"{name}={fleet.pid}" for name in ("balancer", "chat", "v1")])


@asynccontextmanager
async def _vllm_server(comparison: Comparison) -> AsyncIterator[str]:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    weights = await _weights(comparison)
    flags = ("--model", weights, "--served-model-name", comparison.model, "--host", "127.0.0.1", "--port", str(port))
    program = (*comparison.vllm_server, *flags, *comparison.vllm_flags)
    async with started("vLLM's own server", program) as process:
        await process.until(_answers(f"{url}/health"), comparison.start_timeout_seconds)
        yield url


async def _answers(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as response:
                    if response.ok:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(RETRY_SECONDS)


async def _weights(comparison: Comparison) -> str:
    process = await asyncio.create_subprocess_exec(
        *comparison.resolver, comparison.model, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode != 0 or not out.strip():
        raise CommandFailed(f"The weights of {comparison.model!r} cannot be had; the lines above say why.")
    return out.decode().strip().splitlines()[-1]
