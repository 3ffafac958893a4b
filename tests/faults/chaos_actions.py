"""The faults of a chaos run: workers are killed, stopped, restarted, drained; some of them come and go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import psutil
from google.protobuf import duration_pb2

from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Awaitable, Callable
    from random import Random

    from tests.end_to_end.fleet_process import FleetProcess
    from tests.faults.standalone import JoiningWorkers

RESTART_SECONDS = 60.0


@dataclass
class ChaosActions:
    """Harms a fleet, one action after the other."""

    fleet: FleetProcess
    guests: JoiningWorkers
    """Workers that are started here, and join the balancer."""
    channel: grpc.aio.Channel
    rng: Random
    done: Counter[str] = field(default_factory=Counter)

    async def run(self, seconds: float) -> None:
        """Does harm for so long."""
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(self.rng.uniform(0.3, 2.0))
            name = self.rng.choice(list(ACTIONS))
            await ACTIONS[name](self)
            self.done[name] += 1
            self.guests.start_missing()

    # -- actions ---------------------------------------------------------------------------

    async def kill(self) -> None:
        """SIGKILL of a worker with streams, if there is one."""
        self._signal(await self._victim(), signal.SIGKILL)

    async def double_kill(self) -> None:
        """SIGKILL of two workers, the second one when requests of the first may have come there."""
        self._signal(await self._victim(), signal.SIGKILL)
        await asyncio.sleep(self.rng.uniform(0, 0.5))
        self._signal(await self._victim(), signal.SIGKILL)

    async def hang(self) -> None:
        """SIGSTOP of a worker, for a short while or a long one."""
        pid = await self._victim()
        self._signal(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self.rng.choice((0.3, 1.0, 3.0)))
        finally:
            self._signal(pid, signal.SIGCONT)

    async def freeze(self) -> None:
        """SIGSTOP of everything, balancer and workers, as a container that is paused."""
        members = [member.pid for member in self.fleet.family()]
        members += [guest.pid for guest in self.guests.running.values() if guest.poll() is None]
        for pid in members:
            self._signal(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self.rng.uniform(0.5, 3.0))
        finally:
            for pid in members:
                self._signal(pid, signal.SIGCONT)

    async def terminate(self) -> None:
        """SIGTERM of a worker: it drains, and ends."""
        self._signal(await self._victim(), signal.SIGTERM)

    async def restart(self) -> None:
        """A rolling restart of one worker, to its end."""
        await self._restart(RESTART_SECONDS)

    async def cancelled_restart(self) -> None:
        """A rolling restart that its caller gives up."""
        await self._restart(self.rng.uniform(0.05, 0.5))

    async def leave(self) -> None:
        """A guest goes by itself; it comes back with the next action."""
        guest = self._guest()
        guest.terminate()
        await asyncio.to_thread(guest.wait)

    async def crash_guest(self) -> None:
        """A guest dies, and is started again at its address at once."""
        guest = self._guest()
        guest.kill()
        await asyncio.to_thread(guest.wait)

    async def drain(self) -> None:
        """A guest is drained by order, for a while at most, and then started anew."""
        name = self.rng.choice(self.guests.names)
        listed = await asyncio.to_thread(self.fleet.workers)
        known = next((worker.name for worker in listed if worker.address == self.guests.address(name)), None)
        if known is None:
            return
        deadline = duration_pb2.Duration(nanos=int(self.rng.uniform(0.05, 0.9) * 1e9))
        stub = fleet_pb2_grpc.FleetStub(self.channel)
        await stub.DrainWorker(fleet_pb2.DrainWorkerRequest(worker=known, deadline=deadline), timeout=30)
        self.guests.running[name].kill()
        await asyncio.to_thread(self.guests.running[name].wait)

    # -- their parts -----------------------------------------------------------------------

    async def _victim(self) -> int:
        """Returns a worker's process, a busy one three times of four."""
        listed = await asyncio.to_thread(self.fleet.workers)
        pids = {worker.name: worker.pid or self.guests.pid(worker.address) for worker in listed}
        busy = sorted((worker.leases, worker.name) for worker in listed if pids[worker.name])
        if not busy:
            return 0
        return pids[busy[-1][1] if self.rng.random() < 0.75 else self.rng.choice(busy)[1]]

    async def _restart(self, seconds: float) -> None:
        own = [worker.name for worker in await asyncio.to_thread(self.fleet.workers) if worker.pid]
        if not own:
            return
        call = fleet_pb2_grpc.FleetStub(self.channel).RestartWorkers(
            fleet_pb2.RestartWorkersRequest(workers=[self.rng.choice(own)]), timeout=RESTART_SECONDS
        )
        with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
            # A worker that dies while it is being restarted ends the order, and that is right.
            async with asyncio.timeout(seconds):
                async for _fleet in call:
                    pass
        call.cancel()

    def _guest(self) -> subprocess.Popen[bytes]:
        return self.guests.running[self.rng.choice(self.guests.names)]

    def _signal(self, pid: int, number: int) -> None:
        if pid:
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                os.kill(pid, number)


ACTIONS: dict[str, Callable[[ChaosActions], Awaitable[None]]] = {
    "kill": ChaosActions.kill,
    "double kill": ChaosActions.double_kill,
    "hang": ChaosActions.hang,
    "freeze": ChaosActions.freeze,
    "terminate": ChaosActions.terminate,
    "restart": ChaosActions.restart,
    "cancelled restart": ChaosActions.cancelled_restart,
    "leave and join": ChaosActions.leave,
    "crash and join": ChaosActions.crash_guest,
    "drain and join": ChaosActions.drain,
}
