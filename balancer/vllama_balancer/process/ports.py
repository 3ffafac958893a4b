"""Binds the ports of the front doors, and says who has one that is taken."""

from __future__ import annotations

import contextlib
import errno
import socket

import psutil

from vllama_balancer.errors import ConfigError

BACKLOG = 1024


def bind(host: str, port: int, flag: str) -> socket.socket:
    """Binds and listens; the caller closes the socket.

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
    """Names the process that listens on a port, for people; without rights to see it only "another process"."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another process"
