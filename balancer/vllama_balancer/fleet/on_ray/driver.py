"""The Ray driver: `python -m vllama_balancer.fleet.on_ray.driver`, a child of the balancer, connected to the cluster.

Reads commands from standard input and writes events to standard output, one JSON line each. Its actors belong to it:
when it ends, by a command, by the end of the input or by kill -9, Ray ends them, and no GPU stays reserved.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import ray

from vllama_balancer import logs
from vllama_balancer.fleet.on_ray.actor import RayActorSlot, ResourceRequest
from vllama_balancer.fleet.on_ray.messages import LONGEST_LINE_BYTES, Connected, decode, encode
from vllama_balancer.fleet.on_ray.supervisor import ActorSupervisors
from vllama_balancer.fleet.restart_policy import RestartSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vllama_balancer.fleet.on_ray.messages import DriverEvent

EXIT_UNREACHABLE = 1
ANSWER_SECONDS = 5.0
"""How long the head of the cluster may take to accept a connection."""

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until Close or the end of the input; returns the exit status of the process."""
    arguments = _parser().parse_args(argv)
    # Ray prints to standard output: messages to the balancer use a descriptor of their own.
    outlet = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logs.set_up(arguments.log_format, arguments.log_level)
    # Ctrl-C goes to the whole group of a terminal: the balancer decides when the driver ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        connect(arguments.address)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        print(f"vllama: {str(error).strip().partition(chr(10))[0]}", file=sys.stderr)
        return EXIT_UNREACHABLE
    try:
        asyncio.run(_run(arguments, outlet))
    finally:
        ray.shutdown()
    return 0


def connect(address: str, init: Callable[..., object] = ray.init) -> None:
    """Connects this process to a cluster, by `init`. Raises what Ray raises, and ConnectionError if there is none."""
    check_reachable(address)
    try:
        init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        if address != "auto":
            raise
        # Ray's message names flags of Ray.
        raise ConnectionError(
            "no Ray cluster runs on this machine; `ray start --head` starts one, --ray-address HOST:PORT names another"
        ) from error


def check_reachable(address: str) -> None:
    """Raises ConnectionError if nothing listens at "host:port": Ray itself would try silently for minutes."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address} ({error}); `ray start --head` starts one, --ray-address names it"
        ) from None


def resources_for(device: str, tensor_parallel: int, cluster_gpus: float) -> ResourceRequest:
    """Returns the resources of one worker: GPUs, unless it computes on processors or the cluster has no GPU."""
    on_processors = device == "cpu" or (device == "auto" and tensor_parallel == 1 and not cluster_gpus)
    return ResourceRequest(0 if on_processors else tensor_parallel)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--address", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--tensor-parallel", type=int, required=True)
    parser.add_argument("--log-format", required=True)
    parser.add_argument("--log-level", required=True)
    return parser


async def _run(arguments: argparse.Namespace, outlet: Any) -> None:
    def emit(event: DriverEvent) -> None:
        outlet.write(encode(event))

    gpus = ray.cluster_resources().get("GPU", 0.0)
    request = resources_for(arguments.device, arguments.tensor_parallel, gpus)
    supervisors = ActorSupervisors(lambda: RayActorSlot(request), RestartSettings(), emit)
    emit(Connected(ray.get_runtime_context().gcs_address))
    reader = asyncio.StreamReader(limit=LONGEST_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while not supervisors.is_closing and (line := await reader.readline()):
            supervisors.execute(decode(line))
        await supervisors.closed()
    except (BrokenPipeError, ConnectionResetError):
        logger.warning("the balancer has ended")
    finally:
        await supervisors.abort()


if __name__ == "__main__":
    sys.exit(main())
