"""The driver as a child process: orders down its standard input, news up its standard output."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import deque
from typing import TYPE_CHECKING, Protocol

from vllama_balancer.fleet.cause import cause_of
from vllama_balancer.fleet.on_ray.wire import line_of, message_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from vllama_balancer.fleet.on_ray.wire import News, Order
    from vllama_balancer.fleet.process import LogSink

logger = logging.getLogger(__name__)

NAME = "ray"
"""How its lines are marked in the log."""
LONGEST_LINE_BYTES = 1 << 20
TAIL_LINES = 50


class DriverLauncher(Protocol):
    """Starts drivers."""

    async def __call__(self) -> DriverProcess:
        """Starts one. Raises OSError."""
        ...


def driver_command(*, address: str, device: str, tensor_parallel: int, log_format: str, log_level: str) -> list[str]:
    """Writes the command line of a driver."""
    return [
        sys.executable, "-m", "vllama_balancer.fleet.on_ray.driver", "--address", address, "--device", device,
        "--tensor-parallel", str(tensor_parallel), "--log-format", log_format, "--log-level", log_level,
    ]  # fmt: skip


def launcher(command: Sequence[str], environment: Mapping[str, str], sink: LogSink) -> DriverLauncher:
    """Makes a launcher of one command line; what drivers print goes to the sink."""

    async def launch() -> DriverProcess:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, env=dict(environment), stdin=pipe, stdout=pipe, stderr=pipe, limit=LONGEST_LINE_BYTES
        )
        return DriverProcess(process, sink)

    return launch


class DriverProcess:
    """One running driver. Read its `news` to the end, then await `ended`."""

    def __init__(self, process: asyncio.subprocess.Process, sink: LogSink) -> None:
        self._process = process
        self._sink = sink
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._log = asyncio.create_task(self._pump(), name="log of the Ray driver")

    def tell(self, order: Order) -> bool:
        """Gives an order; False when the driver takes none any more."""
        stdin = self._process.stdin
        if stdin is None or stdin.is_closing():
            return False
        stdin.write(line_of(order))
        return True

    async def news(self) -> AsyncIterator[News]:
        """Yields what the driver says until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                yield message_of(line)
            except ValueError:
                logger.warning("the Ray driver said something that is no message")

    async def ended(self) -> str:
        """Waits for the driver's end and returns its cause in one sentence."""
        status = await self._process.wait()
        await self._log
        if self._process.stdin is not None:
            self._process.stdin.close()
        return cause_of(self._tail, status)

    def kill(self) -> None:
        """Ends it at once; Ray then ends the actors that belong to it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _pump(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            if text:
                self._tail.append(text)
                self._sink.line(NAME, text)
