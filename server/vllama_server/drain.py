"""`python -m vllama_server.drain ADDRESS`: drains a running worker and returns when its streams have ended.

For a preStop hook of a pod or a script that updates a machine: no stream is cut off. The worker refuses new requests
from then on, for good. The caller stops it afterwards.
"""

from __future__ import annotations

import argparse
import sys

import grpc

from vllama_protos.v1 import worker_pb2, worker_pb2_grpc

MARGIN_SECONDS = 5.0
"""How much longer than its deadline the worker's answer may take."""


def drain(address: str, timeout_seconds: float) -> int:
    """Drains the worker at an address and returns how many streams were left at the deadline.

    Raises grpc.RpcError when the worker does not answer.
    """
    request = worker_pb2.DrainRequest()
    request.deadline.FromNanoseconds(int(timeout_seconds * 1e9))
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        stub = worker_pb2_grpc.WorkerStub(channel)
        return stub.Drain(request, timeout=timeout_seconds + MARGIN_SECONDS).remaining_streams


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 drained, 1 streams were left or the worker does not answer."""
    parser = argparse.ArgumentParser(prog="python -m vllama_server.drain", description="Drains a running worker.")
    parser.add_argument("address", metavar="ADDRESS", help="host:port or unix:/path of the worker, without TLS")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds that its streams may take (default 30)")
    options = parser.parse_args(arguments)
    try:
        remaining = drain(options.address, options.timeout)
    except grpc.RpcError as error:
        said = error.details() if isinstance(error, grpc.Call) else error
        print(f"{options.address} cannot be drained: {said}", file=sys.stderr)
        return 1
    if remaining:
        print(f"{remaining} streams still run after {options.timeout:g} s", file=sys.stderr)
    return 1 if remaining else 0


if __name__ == "__main__":
    sys.exit(main())
