"""The commands' way to the balancer's Fleet service: one channel for a command, errors as sentences."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from vllama_clients.cli.address import api_key, grpc_target, http_address
from vllama_clients.cli.failure import CommandFailed
from vllama_clients.cli.tls import authority, own_certificate
from vllama_clients.connection import Connection, Tls
from vllama_clients.errors import Unavailable, error_of_call
from vllama_protos.durations import set_seconds
from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


CONNECT_SECONDS = 2.0
"""Longest wait for a balancer where a command also works without one."""
_NO_ORDER = frozenset(
    {
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNAVAILABLE,
    }
)
"""Statuses of a server that takes no order to unload a model from this caller."""


class FleetClient:
    """Calls the Fleet service of one balancer. CommandFailed for whatever goes wrong."""

    def __init__(self, connection: Connection, channel: grpc.Channel) -> None:
        self._target = connection.target
        self._metadata = connection.metadata()
        self._channel = channel
        self._stub = fleet_pb2_grpc.FleetStub(channel)

    def list(self) -> fleet_pb2.ListWorkersResponse:
        """Lists the workers once."""
        with self._translated():
            return self._stub.ListWorkers(fleet_pb2.ListWorkersRequest(), metadata=self._metadata)

    def watch(self) -> Iterator[fleet_pb2.ListWorkersResponse]:
        """Yields the list at once and then at least every second, without end."""
        with self._translated():
            yield from self._stub.WatchFleet(fleet_pb2.WatchFleetRequest(), metadata=self._metadata)

    def drain(self, worker: str, timeout_seconds: float | None) -> int:
        """Takes a worker out when its streams have ended; returns how many had not in time (None: the server's)."""
        request = fleet_pb2.DrainWorkerRequest(worker=worker)
        if timeout_seconds is not None:
            set_seconds(request.deadline, timeout_seconds)
        with self._translated():
            return self._stub.DrainWorker(request, metadata=self._metadata).remaining_streams

    def undrain(self, worker: str) -> None:
        """Takes a drain back."""
        with self._translated():
            self._stub.UndrainWorker(fleet_pb2.UndrainWorkerRequest(worker=worker), metadata=self._metadata)

    def unload(self, model: str) -> fleet_pb2.UnloadModelResponse | None:
        """Unloads a model once it is idle; None when that cannot be ordered here: no balancer, or an older one."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout=CONNECT_SECONDS)
            return self._stub.UnloadModel(fleet_pb2.UnloadModelRequest(model=model), metadata=self._metadata)
        except grpc.FutureTimeoutError:
            return None
        except grpc.RpcError as raised:
            error = error_of_call(raised)
            if error.code in _NO_ORDER:
                return None
            raise CommandFailed(str(error)) from error

    def restart(self, workers: Sequence[str]) -> Iterator[fleet_pb2.ListWorkersResponse]:
        """Restarts workers one after the other and yields the list meanwhile; no names mean all of them."""
        request = fleet_pb2.RestartWorkersRequest(workers=workers)
        with self._translated():
            yield from self._stub.RestartWorkers(request, metadata=self._metadata)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as raised:
            error = error_of_call(raised)
            if isinstance(error, Unavailable) and not error.reason:
                raise CommandFailed(
                    f"No balancer answers at {self._target}: start one with `vllama serve`, or name its gRPC "
                    "address in VLLAMA_GRPC."
                ) from error
            raise CommandFailed(str(error)) from error


@contextmanager
def fleet_of(environment: Mapping[str, str]) -> Iterator[FleetClient]:
    """Opens a channel to the balancer that the environment describes."""
    connection = connection_of(environment)
    with connection.channel() as channel:
        yield FleetClient(connection, channel)


def connection_of(environment: Mapping[str, str]) -> Connection:
    """Reads address, key and certificates; TLS where the edge is named with https or an authority is given."""
    roots = authority(environment)
    secure = roots is not None or http_address(environment).scheme == "https"
    tls = Tls(roots.encode() if roots is not None else None, *own_certificate(environment)) if secure else None
    return Connection(grpc_target(environment), tls, api_key(environment))
