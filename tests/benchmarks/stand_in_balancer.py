"""A stand-in for the balancer process: serves a Fleet whose course its model's name selects.

"ready" becomes ready, "broken" has a worker that failed for good, "dies" ends while it starts,
"slow" never becomes ready, "sour" ends with status 3 at SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from tests.clients.scripted_server import Script, start_server
from vllama_protos.v1 import fleet_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

STARTING = fleet_pb2.WorkerStatus(
    name="worker-0",
    report=worker_pb2.WorkerReport(
        state=worker_pb2.WORKER_STATE_STARTING, phase=worker_pb2.START_PHASE_LOAD, progress=0.5
    ),
)
READY = fleet_pb2.WorkerStatus(name="worker-0", address="unix:/worker-0", available=True)
BROKEN = fleet_pb2.WorkerStatus(
    name="worker-0", report=worker_pb2.WorkerReport(state=worker_pb2.WORKER_STATE_FAILED, failure="No memory.")
)
COURSES: dict[str, Sequence[fleet_pb2.WorkerStatus]] = {
    "ready": (STARTING, READY),
    "sour": (READY,),
    "broken": (STARTING, BROKEN),
    "slow": (STARTING,),
}


async def main(model: str, grpc_port: str) -> int:
    """Serves until SIGTERM."""
    print(f"starting {model}", flush=True)
    if model == "dies":
        return 1
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    fleets = [fleet_pb2.ListWorkersResponse(workers=[worker]) for worker in COURSES[model]]
    server, _ = await start_server(Script(fleets=fleets), f"127.0.0.1:{grpc_port}")
    await stopped.wait()
    await server.stop(None)
    return 3 if model == "sour" else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[sys.argv.index("--grpc-port") + 1])))
