"""Binds the worker's address; an error says the reason and the fix in one sentence.

gRPC itself replaces a unix socket on which another live process listens, and explains a port in use over several
lines of its own log. Both are checked before gRPC binds.
"""

from __future__ import annotations

import errno
import socket
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from vllama_server.errors import ConfigError, StartFailed

if TYPE_CHECKING:
    import grpc

UNIX = "unix:"


def bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None) -> str:
    """Binds a server and returns the address with its real port; a TCP address with credentials speaks TLS.

    Raises StartFailed for an address that is in use now, and ConfigError for one that can never be used.
    """
    if address.startswith(UNIX):
        _check_path(Path(address.removeprefix(UNIX)))
    else:
        _check_port(address)
    try:
        if credentials is None or address.startswith(UNIX):
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StartFailed(f"--listen: cannot listen on {address}: {error}") from None
    return address if address.startswith(UNIX) else f"{address.rpartition(':')[0]}:{port}"


def release(address: str) -> None:
    """Removes the file of a unix socket; TCP ports need nothing."""
    if address.startswith(UNIX):
        Path(address.removeprefix(UNIX)).unlink(missing_ok=True)


def _check_path(path: Path) -> None:
    if not path.parent.is_dir():
        raise ConfigError(f"--listen: the directory {path.parent} does not exist; create it or pass another path.")
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigError(f"--listen: {path} is a file and no socket; pass another path.")
    if _answers(path):
        raise StartFailed(f"--listen: {path} is in use by another process; stop it or pass another path.")
    path.unlink()


def _answers(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


def _check_port(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with closing(socket.socket(family, kind, protocol)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except socket.gaierror:
        raise ConfigError(f"--listen: the host {host} is unknown; pass an address of this machine.") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            finder = f"`ss -ltnp sport = :{port}`"
            raise StartFailed(f"--listen: port {port} is in use; stop what {finder} shows or pass another.") from None
        raise ConfigError(f"--listen: {_reason(error, address, port)}") from None


def _reason(error: OSError, address: str, port: str) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{address} is no address of this machine; pass one that is, such as 127.0.0.1:{port}."
    if error.errno == errno.EACCES:
        return f"this user may not listen on port {port}; pass one above 1023."
    return f"cannot listen on {address}: {error.strerror}."
