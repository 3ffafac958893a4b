"""Workers on a Ray cluster as the balancer sees them: the interface of LocalFleet, over a driver process.

When the driver ends, the balancer keeps serving with the workers that still answer, starts another driver, and sends
it the same workers again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import deque
from typing import TYPE_CHECKING

from vllama_balancer.errors import NoWorker
from vllama_balancer.fleet.events import Added, Changed, ProcessState, Removed
from vllama_balancer.fleet.on_ray.messages import (
    LONGEST_LINE_BYTES,
    Close,
    Connected,
    Restart,
    Retire,
    decode,
    encode,
    start_command,
)
from vllama_balancer.fleet.process import crash_reason, log_end, write_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.events import FleetEvent
    from vllama_balancer.fleet.on_ray.messages import DriverCommand, DriverEvent, Start
    from vllama_balancer.fleet.process import LogSink

logger = logging.getLogger(__name__)

LOG_NAME = "ray"
"""Name in the log of the lines that a driver prints."""
TAIL_LINES = 50
FIRST_PAUSE_SECONDS = 0.5
"""Pause before another driver is started; doubles with each one that does not reach the cluster."""
LONGEST_PAUSE_SECONDS = 10.0
CLOSE_GRACE_SECONDS = 15.0
"""How much longer than the workers' drain the driver may take to end."""


def driver_command(*, address: str, device: str, tensor_parallel: int, log_format: str, log_level: str) -> list[str]:
    return [
        sys.executable, "-m", "vllama_balancer.fleet.on_ray.driver", "--address", address, "--device", device,
        "--tensor-parallel", str(tensor_parallel), "--log-format", log_format, "--log-level", log_level,
    ]  # fmt: skip


def launcher(
    command: Sequence[str], environment: Mapping[str, str], sink: LogSink
) -> Callable[[], Awaitable[DriverProcess]]:
    """Returns a function that starts drivers by one command line; it raises OSError."""

    async def launch() -> DriverProcess:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, env=dict(environment), stdin=pipe, stdout=pipe, stderr=pipe, limit=LONGEST_LINE_BYTES
        )
        return DriverProcess(process, sink)

    return launch


class DriverProcess:
    """A running driver: commands to its standard input, events from its standard output.

    Read its `events` to the end, then await `ended`.
    """

    def __init__(self, process: asyncio.subprocess.Process, sink: LogSink) -> None:
        self._process = process
        self._sink = sink
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._log = asyncio.create_task(self._pump(), name="log of the Ray driver")

    def send(self, command: DriverCommand) -> bool:
        """Sends a command; returns False if the driver takes none any more."""
        stdin = self._process.stdin
        if stdin is None or stdin.is_closing():
            return False
        stdin.write(encode(command))
        return True

    async def events(self) -> AsyncIterator[DriverEvent]:
        """Yields the driver's messages until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                yield decode(line)
            except ValueError:
                logger.warning("the Ray driver wrote a line that is no message")

    async def ended(self) -> str:
        """Waits for the driver's end and returns its cause in one sentence."""
        status = await self._process.wait()
        await log_end(self._log)
        if self._process.stdin is not None:
            self._process.stdin.close()
        return crash_reason(self._tail, status)

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
                write_line(self._sink, LOG_NAME, text)


class RayFleet:
    """Starts, restarts and ends workers on a cluster: a FleetSource, a FleetControl and a WorkerLauncher.

    `close` must be awaited at the end; after it, none of its workers runs on the cluster.
    """

    def __init__(self, launch: Callable[[], Awaitable[DriverProcess]], *, drain_seconds: float) -> None:
        """Starts no driver before the first worker is added."""
        self._launch = launch
        self._drain_seconds = drain_seconds
        self._events: asyncio.Queue[FleetEvent | NoWorker] = asyncio.Queue()
        self._workers: dict[str, tuple[WorkerSpec, Start]] = {}
        self._removed: dict[str, asyncio.Event] = {}
        self._placed: dict[str, asyncio.Event] = {}
        self._driver: DriverProcess | None = None
        self._was_connected = False
        self._is_connected = False
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None

    async def events(self) -> AsyncIterator[FleetEvent]:
        """Yields the events of the workers, for one reader. Raises NoWorker if the cluster was never reached."""
        while True:
            event = await self._events.get()
            if isinstance(event, NoWorker):
                raise event
            yield event

    def add(self, spec: WorkerSpec, *, fail_fast: bool = False) -> None:
        """Starts a worker whose name is not in use; with `fail_fast`, a failed start is not retried."""
        if spec.name in self._workers:
            raise ValueError(f"{spec.name} runs already")
        command = start_command(spec, fail_fast=fail_fast)
        self._workers[spec.name] = (spec, command)
        self._removed[spec.name] = asyncio.Event()
        self._placed[spec.name] = asyncio.Event()
        if self._task is None:
            self._task = asyncio.create_task(self._supervise_driver(), name="supervisor of the Ray driver")
        else:
            self._send(command)

    def owns(self, name: str) -> bool:
        return name in self._workers

    async def restart(self, name: str) -> None:
        """Ends the worker's process and starts it again; returns when the new process runs."""
        self._placed[name].clear()
        self._send(Restart(name, self._drain_seconds))
        await self._placed[name].wait()

    async def retire(self, name: str) -> None:
        """Ends the worker for good; returns when it has ended. An unknown name is no error."""
        if name not in self._workers:
            return
        removed = self._removed[name]
        del self._workers[name]
        if not self._send(Retire(name, self._drain_seconds)):
            # Ray has ended the workers with their driver, or none has started any yet.
            self._handle(Removed(name, "was stopped"))
        await removed.wait()

    async def close(self, drain_seconds: float | None = None) -> None:
        """Drains and ends all workers at once, and the driver."""
        seconds = self._drain_seconds if drain_seconds is None else drain_seconds
        self._is_closing = True
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            # A driver that still looks for its cluster has started no worker.
            if self._send(Close(seconds)):
                async with asyncio.timeout(seconds + CLOSE_GRACE_SECONDS):
                    await asyncio.shield(self._task)
        self.kill()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def clear(self) -> None:
        """Does nothing: this fleet leaves no files on this machine."""

    def kill(self) -> None:
        """Ends the driver now, and with it all workers; `close` is still due."""
        self._is_closing = True
        if self._driver is not None:
            self._driver.kill()

    def _send(self, command: DriverCommand) -> bool:
        """Returns False if no driver is connected: it starts all workers as soon as it is, and has started none yet."""
        return self._driver is not None and self._is_connected and self._driver.send(command)

    async def _supervise_driver(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._is_closing:
            connected, cause = await self._run_driver()
            if self._is_closing:
                return
            if not self._was_connected:
                self._events.put_nowait(NoWorker(f"the Ray cluster cannot be used: {cause}"))
                return
            pause = FIRST_PAUSE_SECONDS if connected else min(2 * pause, LONGEST_PAUSE_SECONDS)
            logger.warning("connection to Ray lost, next attempt in %g s: %s", pause, cause)
            for name in self._workers:
                reason = f"the connection to Ray is lost: {cause}"
                self._events.put_nowait(Changed(name, ProcessState.RESTARTING, reason, retry_in_seconds=pause))
            await asyncio.sleep(pause)

    async def _run_driver(self) -> tuple[bool, str]:
        """Runs one driver to its end; returns whether it had reached the cluster, and why it ended."""
        connected = False
        try:
            self._driver = driver = await self._start_driver()
        except Exception as error:
            return False, f"the driver could not be started: {error}"
        try:
            async for event in driver.events():
                if isinstance(event, Connected):
                    connected = self._is_connected = self._was_connected = True
                    logger.info("connected to the Ray cluster at %s", event.cluster)
                    for _, command in self._workers.values():
                        driver.send(command)
                else:
                    self._handle(event)
            return connected, await driver.ended()
        except Exception as error:
            logger.exception("unhandled exception in the supervision of the Ray driver")
            return connected, f"its driver could not be followed: {error}"
        finally:
            self._driver = None
            self._is_connected = False
            driver.kill()
            await driver.ended()
            self._remove_retired()

    async def _start_driver(self) -> DriverProcess:
        """Starts a driver, and ends it if this is cancelled meanwhile. Raises OSError."""
        launching = asyncio.ensure_future(self._launch())
        try:
            return await asyncio.shield(launching)
        except asyncio.CancelledError:
            driver = await launching
            driver.kill()
            await driver.ended()
            raise

    def _handle(self, event: FleetEvent) -> None:
        if isinstance(event, Removed):
            self._placed.pop(event.name, None)
            if (removed := self._removed.get(event.name)) is not None:
                removed.set()
        elif isinstance(event, Added) and event.address and event.name in self._placed:
            self._placed[event.name].set()
        self._events.put_nowait(event)

    def _remove_retired(self) -> None:
        """Removes the workers that were being retired when the driver ended: they have ended with it."""
        for name, removed in self._removed.items():
            if name not in self._workers and not removed.is_set():
                self._handle(Removed(name, "has gone with its cluster"))
