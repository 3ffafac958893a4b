"""The HTTP and the gRPC server of one process: bound, opened, drained and closed together."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from vllama_balancer.callers import Access
from vllama_balancer.client_limits import LEAST_STREAMS, ClientLimits
from vllama_balancer.edge.app import build_app
from vllama_balancer.edge.config import EdgeConfig
from vllama_balancer.edge.security import AllowedHosts, this_host
from vllama_balancer.edge.server import EdgeServer
from vllama_balancer.errors import ConfigError
from vllama_balancer.front.server import GrpcServer
from vllama_balancer.keys import ApiKeys, Scope
from vllama_balancer.startup.fleet_view import PoolView
from vllama_balancer.startup.open_files import most_connections
from vllama_balancer.startup.tls import tls_files
from vllama_balancer.workers.rolling_restart import RollingRestart
from vllama_protos.budgets import RequestLimits

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    import grpc
    from prometheus_client import CollectorRegistry

    from vllama_balancer.config import BalancerConfig
    from vllama_balancer.dispatch.dispatcher import Dispatcher
    from vllama_balancer.fleet.events import FleetControl
    from vllama_balancer.fleet.membership import JoinedFleet
    from vllama_balancer.gateway import Management
    from vllama_balancer.scheduler.on_demand import OnDemand
    from vllama_balancer.scheduler.scheduler import ModelScheduler
    from vllama_balancer.workers.pool import Pool

logger = logging.getLogger(__name__)

LINGER_SECONDS = 1.0
"""How long open HTTP connections are kept after the last request of a drain; a reply ends its connection."""
LAST_WORDS_SECONDS = 0.5
"""How long gRPC calls may take to end that the drain has left; those that watch never end by themselves."""


@dataclass(frozen=True, slots=True)
class LocalParts:
    """Collaborators of the front doors where this process starts the workers."""

    gateway: OnDemand
    """Loads models before requests reach the dispatcher."""
    management: Management
    control: FleetControl
    """Restarts and retires workers."""
    scheduler: ModelScheduler


class FrontDoors:
    """The HTTP and the gRPC server. Call `bind`, `open`, `drain`, `close` in this order, and `release` at last.

    `local` is there where this process starts the workers, `joined` where workers may join.
    """

    def __init__(
        self,
        config: BalancerConfig,
        dispatcher: Dispatcher,
        pool: Pool,
        registry: CollectorRegistry,
        local: LocalParts | None,
        joined: JoinedFleet | None = None,
        waiting: Callable[[], int] = lambda: 0,
    ) -> None:
        """Shows the number of waiting requests that `waiting` returns."""
        self._config = config
        gateway = local.gateway if local is not None else dispatcher
        view = PoolView(pool, waiting, local.scheduler if local is not None else None)
        access = make_access(config)
        self._listener: socket.socket | None = None
        limits = ClientLimits(
            lambda: config.max_streams_per_client or max(LEAST_STREAMS, capacity(pool)), config.max_inflight_bytes
        )
        request_limits = RequestLimits(text_bytes=config.max_request_text_bytes, choices_bytes=config.max_request_bytes)
        edge_config = EdgeConfig(
            loopback_only=is_loopback(config.host),
            origins=config.origins,
            max_connections=most_connections(),
            max_body_bytes=config.max_request_bytes,
            request_limits=request_limits,
        )
        app = build_app(
            gateway,
            config=edge_config,
            registry=registry,
            fleet=view,
            residency=local.gateway if local is not None else None,
            management=local.management if local is not None else None,
            access=access,
            limits=limits,
        )
        self._edge = EdgeServer(app)
        control = local.control if local is not None else None
        self._rolling = RollingRestart(pool, control, config.drain_timeout_seconds)
        unloader = local.gateway if local is not None else None
        self._front = GrpcServer(gateway, pool, self._rolling, view, access, joined, limits, request_limits, unloader)
        self.http_port = config.port
        """HTTP port, once it is bound."""
        self.grpc_port = config.grpc_port
        """gRPC port, once it is open."""

    @property
    def http_url(self) -> str:
        """Address of the HTTP server for a client on this machine."""
        scheme = "https" if self._config.tls_certificate else "http"
        return f"{scheme}://{authority(reachable(self._config.host), self.http_port)}"

    @property
    def grpc_address(self) -> str:
        """Address of the gRPC server for a client on this machine."""
        return authority(reachable(self._config.host), self.grpc_port)

    def bind(self) -> None:
        """Takes both ports, or none. Raises ConfigError that names the process that has one of them."""
        self._listener = bind(self._config.host, self._config.port, "--port")
        self.http_port = self._listener.getsockname()[1]
        # gRPC binds by itself: this is a test beforehand, with the same message for both ports.
        bind(self._config.host, self._config.grpc_port, "--grpc-port").close()

    async def open(self) -> None:
        grpc_credentials, ssl_context = self._tls()
        target = authority(self._config.host, self._config.grpc_port)
        self.grpc_port = await self._front.start(target, grpc_credentials)
        await self._edge.start(self._config.host, self.http_port, ssl_context=ssl_context, sock=self._listener)

    def drain(self) -> None:
        """Refuses new requests with a reason, at both doors; running ones go on."""
        self._edge.drain()
        self._front.drain()

    async def settle(self) -> None:
        """Waits a moment for clients with open connections: a request that is on its way still gets its refusal."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while self._edge.connections:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Ends what still runs and closes both servers."""
        await self._edge.stop()
        await self._front.stop(LAST_WORDS_SECONDS)
        await self._rolling.close()

    def release(self) -> None:
        """Closes the bound port if the servers never opened."""
        if self._listener is not None:
            self._listener.close()

    def _tls(self) -> tuple[grpc.ServerCredentials | None, ssl.SSLContext | None]:
        files = tls_files(self._config)
        if files is None:
            return None, None
        return files.server_credentials(), files.server_context()


def capacity(pool: Pool) -> int:
    """Returns how many streams the workers serve at once, as far as they have said."""
    return sum(worker.description.max_streams for worker in pool.workers() if worker.description is not None)


def make_access(config: BalancerConfig) -> Access:
    """Returns the rule of who may do what. Raises ConfigError for a wrong key file.

    Warns of a server that others reach without a key.
    """
    keys = ApiKeys.load(config.api_keys) if config.api_keys is not None else None
    if keys is None and config.anonymous_scopes and not is_loopback(config.host):
        logger.warning(
            "anyone who reaches %s may %s without a key: set --api-key-file (vllama key NAME makes a key), or listen "
            "on 127.0.0.1",
            config.host,
            ", ".join(scope for scope in Scope if scope in config.anonymous_scopes),
        )
    hosts = AllowedHosts(this_host())
    return Access(keys, anonymous=config.anonymous_scopes, proxies=config.trusted_proxies, is_own_host=hosts.allows)


def is_loopback(host: str) -> bool:
    """True if only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reachable(host: str) -> str:
    """Replaces "any address" by one that a client on this machine can use."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def authority(host: str, port: int) -> str:
    """Returns host:port, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


BACKLOG = 1024


def bind(host: str, port: int, flag: str) -> socket.socket:
    """Returns a bound, listening socket; the caller closes it.

    Raises ConfigError with one sentence that names the process that has the port and `flag`.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigError(f"{host} is no address of this machine ({error.strerror}); choose another --host") from None
    listener = socket.socket(family, kind, protocol)
    try:
        # Without it a port stays taken for a minute after the last owner's connections.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(_refusal(host, port, flag, error)) from None
    return listener


def _refusal(host: str, port: int, flag: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use by {owner_of(port)}; stop it, or choose another port with {flag}"
    if error.errno == errno.EACCES:
        return f"port {port} needs rights that this user lacks; choose one from 1024 up with {flag}"
    return f"{host}:{port} cannot be bound ({error.strerror}); choose another --host or {flag}"


def owner_of(port: int) -> str:
    """Returns the name of the process that listens on a port; "another process" without the rights to see it."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another process"
