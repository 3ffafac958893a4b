"""Simulated workers that a test starts itself, for balancers that are given addresses, and a way to silence reports."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from tests.end_to_end.fleet_process import free_port
from tests.faults.load import MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WATCH = "/vllama.v1.Worker/Watch"


@dataclass
class StandaloneWorkers:
    """Processes with sockets in one directory. `stop` them at the end."""

    directory: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def address(self, name: str) -> str:
        """Where a worker listens, or will."""
        return f"unix:{self.directory}/{name}"

    def start(self, name: str, *arguments: str) -> None:
        """Starts one, four times as fast as a GPU."""
        command = [sys.executable, "-m", "vllama_server", MODEL, "--engine", "fake", "--name", name]
        command += ["--listen", self.address(name), "--max-model-len", "65536", "--engine-arg", "speed=4", *arguments]
        with (self.directory / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def stop(self) -> None:
        """Kills them all."""
        for process in self.running.values():
            process.kill()
            process.wait()


@dataclass
class JoiningWorkers:
    """Workers that join a balancer on this machine, each at a port that it keeps. `stop` them at the end."""

    directory: Path
    names: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    balancer: str = ""
    """Where the balancer listens."""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._addresses = {name: f"127.0.0.1:{free_port()}" for name in self.names}
        self.token_file = self.directory / "join-token"
        self.token_file.write_text("t" * 32)
        self.token_file.chmod(0o600)

    def pid(self, address: str) -> int:
        """Returns the process that listens there, 0 if none of these does."""
        found = (guest for name, guest in self.running.items() if self._addresses[name] == address)
        return next((guest.pid for guest in found if guest.poll() is None), 0)

    def address(self, name: str) -> str:
        """Where a worker listens, or will."""
        return self._addresses[name]

    def start_missing(self) -> None:
        """Starts those that do not run."""
        for name in self.names:
            if name not in self.running or self.running[name].poll() is not None:
                self._start(name)

    def _start(self, name: str) -> None:
        command = [sys.executable, "-m", "vllama_server", MODEL, "--engine", "fake", "--name", name]
        command += ["--listen", self._addresses[name], "--join", self.balancer, "--join-token-file", self.token_file]
        command += ["--max-model-len", "65536", "--engine-arg", "speed=4", *self.arguments]
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def stop(self) -> None:
        """Kills them all."""
        for process in self.running.values():
            process.kill()
            process.wait()


class Between(grpc.GenericRpcHandler):
    """Passes every call on to a worker, byte for byte, except reports while a test holds them back.

    Serve it for as long as the context lasts; callers cannot distinguish it from the worker.
    """

    def __init__(self, listen: str, worker: str) -> None:
        self._listen = listen
        self._worker = worker
        self._open = asyncio.Event()
        self._open.set()
        self.held_reports = 0
        """Reports that were held back."""

    async def __aenter__(self) -> Between:
        """Begins to serve."""
        self._channel = grpc.aio.insecure_channel(self._worker)
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        self._server.add_insecure_port(self._listen)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cuts what runs."""
        self._open.set()
        await self._server.stop(None)
        await self._channel.close()

    def hold_reports(self) -> None:
        """Lets the Watch stream stand still, open, from now on."""
        self._open.clear()

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Handles any method as a stream both ways, which all the others are special cases of."""
        method = handler_call_details.method

        async def forward(requests: Any, context: Any) -> None:
            call = self._channel.stream_stream(method)(_read(requests), timeout=context.time_remaining())
            try:
                async for message in call:
                    if method == WATCH and not self._open.is_set():
                        self.held_reports += 1
                        await self._open.wait()
                    await context.write(message)
                context.set_trailing_metadata(await call.trailing_metadata())
            except grpc.aio.AioRpcError as error:
                context.set_trailing_metadata(error.trailing_metadata())
                await context.abort(error.code(), error.details() or "")
            finally:
                call.cancel()

        return grpc.stream_stream_rpc_method_handler(forward)


async def _read(requests: Any) -> Any:
    async for request in requests:
        yield request


def worker_flags(addresses: Sequence[str]) -> list[str]:
    """Writes the balancer's flags for running workers."""
    return [part for address in addresses for part in ("--worker", address)]
