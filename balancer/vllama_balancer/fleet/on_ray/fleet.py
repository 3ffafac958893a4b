"""The driver as a child process: orders down its standard input, news up its standard output.

Workers on a Ray cluster, as the balancer sees them: the interface of the local fleet, over a driver process.

Ray ends a process that has lost its cluster. The balancer therefore never imports it: it starts a driver, passes
orders down a pipe and takes events from another. When the driver dies, the balancer goes on with whatever still
answers, starts another driver and orders the same workers again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections import deque
from typing import TYPE_CHECKING, Protocol

from vllama_balancer.errors import NoWorker
from vllama_balancer.fleet.events import Added, Changed, ProcessState, Removed
from vllama_balancer.fleet.on_ray.messages import Close, Connected, Restart, Retire, decode, encode, start_command
from vllama_balancer.fleet.process import crash_reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from vllama_balancer.fleet.assignment import WorkerSpec
    from vllama_balancer.fleet.events import FleetEvent
    from vllama_balancer.fleet.on_ray.messages import DriverCommand, DriverEvent, Start
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

    def tell(self, order: DriverCommand) -> bool:
        """Gives an order; False when the driver takes none any more."""
        stdin = self._process.stdin
        if stdin is None or stdin.is_closing():
            return False
        stdin.write(encode(order))
        return True

    async def news(self) -> AsyncIterator[DriverEvent]:
        """Yields what the driver says until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                yield decode(line)
            except ValueError:
                logger.warning("the Ray driver said something that is no message")

    async def ended(self) -> str:
        """Waits for the driver's end and returns its cause in one sentence."""
        status = await self._process.wait()
        await self._log
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
                self._sink.line(NAME, text)


FIRST_PAUSE_SECONDS = 0.5
"""Before another driver is started; doubles with every one that does not reach the cluster."""
LONGEST_PAUSE_SECONDS = 10.0
CLOSE_GRACE_SECONDS = 15.0
"""How much longer than the workers' drain the driver may take to end."""


class RayFleet:
    """Starts, watches, restarts and ends workers on a cluster: a FleetSource, a FleetControl and a WorkerLauncher.

    `close` must be awaited at the end; after it nothing of it runs on the cluster.
    """

    def __init__(self, launch: DriverLauncher, *, drain_seconds: float) -> None:
        """Nothing is started before the first worker is added."""
        self._launch = launch
        self._drain_seconds = drain_seconds
        self._outbox: asyncio.Queue[FleetEvent | NoWorker] = asyncio.Queue()
        self._wanted: dict[str, tuple[WorkerSpec, Start]] = {}
        self._removed: dict[str, asyncio.Event] = {}
        self._placed: dict[str, asyncio.Event] = {}
        self._driver: DriverProcess | None = None
        self._was_connected = False
        self._is_connected = False
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None

    async def events(self) -> AsyncIterator[FleetEvent]:
        """Yields what happens to the workers, for one reader. Raises NoWorker when no cluster is there at first."""
        while True:
            event = await self._outbox.get()
            if isinstance(event, NoWorker):
                raise event
            yield event

    def add(self, spec: WorkerSpec, *, fail_fast: bool = False) -> None:
        """Starts a worker, of a name that is not in use; one that gives up soon does not try a failed start again."""
        if spec.name in self._wanted:
            raise ValueError(f"{spec.name} runs already")
        order = start_command(spec, fail_fast=fail_fast)
        self._wanted[spec.name] = (spec, order)
        self._removed[spec.name] = asyncio.Event()
        self._placed[spec.name] = asyncio.Event()
        if self._task is None:
            self._task = asyncio.create_task(self._keep_driving(), name="keep the Ray driver alive")
        else:
            self._order(order)

    def specs(self) -> Sequence[WorkerSpec]:
        """Lists the workers that are kept alive."""
        return [spec for spec, _ in self._wanted.values()]

    def owns(self, name: str) -> bool:
        """Tells whether this fleet keeps that worker."""
        return name in self._wanted

    async def restart(self, name: str) -> None:
        """Ends the worker's process and starts it again; returns when the new process runs."""
        self._placed[name].clear()
        self._order(Restart(name, self._drain_seconds))
        await self._placed[name].wait()

    async def retire(self, name: str) -> None:
        """Ends the worker for good; returns when nothing of it is left. One that has left already is no error."""
        if name not in self._wanted:
            return
        removed = self._removed[name]
        del self._wanted[name]
        if not self._order(Retire(name, self._drain_seconds)):
            # Without a driver there is no worker: Ray has ended them with it.
            self._take(Removed(name, "was stopped"))
        await removed.wait()

    async def close(self, drain_seconds: float | None = None) -> None:
        """Drains and ends all workers at once, and the driver."""
        seconds = self._drain_seconds if drain_seconds is None else drain_seconds
        self._is_closing = True
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            # A driver that still looks for its cluster has started nothing.
            if self._is_connected and self._order(Close(seconds)):
                await asyncio.wait_for(asyncio.shield(self._task), seconds + CLOSE_GRACE_SECONDS)
        self.kill()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def clear(self) -> None:
        """Removes what a fleet leaves on this machine's disk: nothing."""

    def kill(self) -> None:
        """Ends the driver now, and with it all workers; `close` is still due."""
        self._is_closing = True
        if self._driver is not None:
            self._driver.kill()

    def _order(self, order: DriverCommand) -> bool:
        """Tells the driver; False when there is none, and so nothing to tell: a new one is told what is wanted."""
        return self._driver is not None and self._driver.tell(order)

    async def _keep_driving(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._is_closing:
            connected, cause = await self._drive()
            if self._is_closing:
                return
            if not self._was_connected:
                self._outbox.put_nowait(NoWorker(f"the Ray cluster cannot be used: {cause}"))
                return
            pause = FIRST_PAUSE_SECONDS if connected else min(2 * pause, LONGEST_PAUSE_SECONDS)
            logger.warning("the connection to Ray is lost, trying again in %g s: %s", pause, cause)
            for name in self._wanted:
                reason = f"the connection to Ray is lost: {cause}"
                self._outbox.put_nowait(Changed(name, ProcessState.RESTARTING, reason, retry_in_seconds=pause))
            await asyncio.sleep(pause)

    async def _drive(self) -> tuple[bool, str]:
        """Runs one driver to its end; tells whether it had reached the cluster, and why it ended."""
        connected = False
        try:
            self._driver = driver = await self._launched()
        except OSError as error:
            return False, f"the driver could not be started: {error}"
        try:
            async for news in driver.news():
                if isinstance(news, Connected):
                    connected = self._is_connected = self._was_connected = True
                    logger.info("connected to the Ray cluster at %s", news.cluster)
                    for _, order in self._wanted.values():
                        driver.tell(order)
                else:
                    self._take(news)
            return connected, await driver.ended()
        finally:
            self._driver = None
            self._is_connected = False
            driver.kill()
            await driver.ended()
            self._forget_the_retired()

    async def _launched(self) -> DriverProcess:
        """Starts a driver; one whose start nobody waits for any more is ended. Raises OSError."""
        launching = asyncio.ensure_future(self._launch())
        try:
            return await asyncio.shield(launching)
        except asyncio.CancelledError:
            driver = await launching
            driver.kill()
            await driver.ended()
            raise

    def _take(self, event: FleetEvent) -> None:
        if isinstance(event, Removed):
            self._placed.pop(event.name, None)
            if (removed := self._removed.get(event.name)) is not None:
                removed.set()
        elif isinstance(event, Added) and event.address and event.name in self._placed:
            self._placed[event.name].set()
        self._outbox.put_nowait(event)

    def _forget_the_retired(self) -> None:
        """Ends the waiting for workers that were leaving when the driver died: they have gone with it."""
        for name, removed in self._removed.items():
            if name not in self._wanted and not removed.is_set():
                self._take(Removed(name, "has gone with its cluster"))
