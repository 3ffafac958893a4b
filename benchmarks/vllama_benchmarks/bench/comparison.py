"""The servers of `vllama bench compare`: one model behind every door, started here, measured in one run.

From the inside out: the bare engine (a program of its own), a worker by gRPC, the balancer by gRPC, its /api/chat and
its /v1/chat/completions, and vLLM's own OpenAI server. All three engines get the same arguments and the same cores.
All run at once and are measured in turn, so each ratio is between two measurements a moment apart.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import aiohttp

from vllama_benchmarks.fleet_process import BALANCER, started_fleet
from vllama_benchmarks.server_process import free_ports, started
from vllama_clients.cli.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

VLLM_SERVER = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
BARE = (sys.executable, "-m", "vllama_benchmarks.bare_engine")
RESOLVER = (sys.executable, "-m", "vllama_balancer.models", "resolve")
RETRY_SECONDS = 0.5
LOG_TAIL_LINES = 5
VLLM = "vllm"
DOORS = ("bare", "worker", "balancer", "chat", "v1", VLLM)
"""The doors by name."""
THROUGH_THE_BALANCER = ("balancer", "chat", "v1")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The settings of a comparison."""

    model: str
    """The model's name."""
    engine: str = "vllm"
    """"vllm", or "fake", which has neither a bare engine nor a server of its own."""
    bare: str = ""
    """Another bare engine, a program as in command_target.py; empty: that of vllama itself."""
    engine_args: Sequence[str] = ()
    """key=value for the engine of the worker, for the bare one and for that of vLLM's own server."""
    doors: Sequence[str] = DOORS
    """Which of DOORS are compared; nothing else is started."""
    serve_flags: Sequence[str] = ()
    """Further flags of the balancer."""
    vllm_flags: Sequence[str] = ()
    """Further flags of vLLM's own server."""
    start_timeout_seconds: float = 600.0
    """Most time for each server to become ready."""
    balancer: Sequence[str] = BALANCER
    """Command of the balancer."""
    vllm_server: Sequence[str] = VLLM_SERVER
    """Command of vLLM's own server."""
    resolver: Sequence[str] = RESOLVER
    """Command that prints the directory of a model's weights, for the bare engine and vLLM's own server."""
    bare_program: Sequence[str] = BARE
    """Command of vllama's own bare engine, which also prints the flags of vLLM's server for the same engine."""


@dataclass(frozen=True, slots=True)
class Doors:
    """Targets and watches, as specification.py reads them."""

    targets: Sequence[str]
    """The others are compared with the first."""
    watches: Sequence[str]
    """The balancer's process, for the targets that go through it."""


@asynccontextmanager
async def opened(comparison: Comparison, say: Callable[[str], None]) -> AsyncIterator[Doors]:
    """Starts the servers and ends them afterwards. CommandFailed if one does not start."""
    async with AsyncExitStack() as stack:
        is_real = comparison.engine == "vllm"
        flags = ["--engine", comparison.engine, *_engine_args(comparison), *comparison.serve_flags]
        timeout_seconds = comparison.start_timeout_seconds
        fleet = await stack.enter_async_context(
            started_fleet(comparison.model, 1, flags, timeout_seconds, say, comparison.balancer)
        )
        found = {
            "worker": f"grpc:{fleet.workers[0]}",
            "balancer": f"grpc:{fleet.grpc_target}",
            "chat": f"ollama:{fleet.url}",
            "v1": f"openai:{fleet.url}",
        }
        weights = await _weights(comparison) if is_real else ""
        bare = (*comparison.bare_program, weights, *_engine_args(comparison))
        if is_real or comparison.bare:
            found["bare"] = f"command:{comparison.bare or shlex.join(bare)}"
        if is_real and VLLM in comparison.doors:
            say("vLLM's own server: starting")
            found[VLLM] = f"openai:{await stack.enter_async_context(_vllm_server(comparison, weights, bare))}"
        chosen = [name for name in DOORS if name in comparison.doors and name in found]
        watches = [f"{name}={fleet.pid}" for name in THROUGH_THE_BALANCER if name in chosen]
        yield Doors([f"{name}={found[name]}" for name in chosen], watches)


@asynccontextmanager
async def _vllm_server(comparison: Comparison, weights: str, bare: Sequence[str]) -> AsyncIterator[str]:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    same_engine = await _server_flags(bare)
    flags = ("--model", weights, "--served-model-name", comparison.model, "--host", "127.0.0.1", "--port", str(port))
    program = (*comparison.vllm_server, *flags, *same_engine, *comparison.vllm_flags)
    # The server leaves its sockets behind.
    with TemporaryDirectory(prefix="vllama-bench-", ignore_cleanup_errors=True) as directory:
        environment = _environment() | {"TMPDIR": directory, "VLLM_RPC_BASE_PATH": directory}
        async with started("vLLM's own server", program, environment) as process:
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


def _engine_args(comparison: Comparison) -> list[str]:
    return [word for argument in comparison.engine_args for word in ("--engine-arg", argument)]


def _environment() -> dict[str, str]:
    """Gives vLLM's own server all cores, as a single worker has; by default it leaves one of them idle."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return {"VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_NO_USAGE_STATS": "1", **os.environ}


async def _weights(comparison: Comparison) -> str:
    # Standard error is inherited: a download shows its progress there.
    status, out, _ = await _output((*comparison.resolver, comparison.model), stderr=None)
    if status != 0 or not out:
        raise CommandFailed(f"The weights of {comparison.model!r} cannot be had; the lines above say why.")
    return out[-1]


async def _server_flags(bare: Sequence[str]) -> list[str]:
    status, out, log = await _output((*bare, "--server-flags"), stderr=asyncio.subprocess.PIPE)
    if status != 0 or not out:
        raise CommandFailed("\n".join(["The arguments of the worker's engine cannot be had:", *log[-LOG_TAIL_LINES:]]))
    return [str(flag) for flag in json.loads(out[-1])]


async def _output(program: Sequence[str], stderr: int | None) -> tuple[int, list[str], list[str]]:
    """Runs a program to its end and returns its status and the lines of its outputs."""
    process = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE, stderr=stderr)
    out, log = await process.communicate()
    return (
        process.returncode or 0,
        out.decode().strip().splitlines(),
        (log or b"").decode(errors="replace").splitlines(),
    )
