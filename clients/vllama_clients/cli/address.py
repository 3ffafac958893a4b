"""Where the commands find the server, and their key for it: VLLAMA_HOST, or else OLLAMA_HOST, read as Ollama reads it.

The same variables tell the server where to listen, by the same rules, so an address that only makes
sense for listening ("0.0.0.0") is turned into one that can be called. An address is taken with its
port; VLLAMA_PORT is for one that has none, and beats that of OLLAMA_HOST.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vllama_clients.api_key import checked_api_key
from vllama_clients.cli.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORT = 11434
DEFAULT_GRPC_PORT = 50051
SCHEME_PORTS = {"http": 80, "https": 443}
CALLABLE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """An HTTP server."""

    scheme: str
    """"http" or "https"."""
    host: str
    """Name or IP address, without brackets."""
    port: int
    """TCP port."""
    path: str = ""
    """What precedes every path, without a slash at its end."""

    def __str__(self) -> str:
        return f"{self.scheme}://{bracketed(self.host)}:{self.port}{self.path}"


def http_address(environment: Mapping[str, str]) -> HttpAddress:
    """Reads the address of the HTTP edge; CommandFailed for one that makes no sense."""
    name, text = _variable(environment)
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    elif scheme not in SCHEME_PORTS:
        raise CommandFailed(f"{name} is {text!r}; its scheme must be http or https.")
    try:
        parts = urlsplit(f"//{_with_brackets(rest)}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise CommandFailed(f"{name} is {text!r}; write host, host:port or http://host:port.") from None
    in_address = SCHEME_PORTS[scheme] if separator and port is None else port
    beside_it = _port(environment, "VLLAMA_PORT")
    ports = (beside_it, in_address) if name == "OLLAMA_HOST" else (in_address, beside_it)
    port = next((port for port in ports if port is not None), DEFAULT_PORT)
    return HttpAddress(scheme, CALLABLE.get(host, host), port, parts.path.rstrip("/"))


def grpc_target(environment: Mapping[str, str]) -> str:
    """Reads the address of the gRPC front: VLLAMA_GRPC, or the edge's host with VLLAMA_GRPC_PORT."""
    target = environment.get("VLLAMA_GRPC", "").strip()
    if target:
        return target
    port = _port(environment, "VLLAMA_GRPC_PORT")
    return f"{bracketed(http_address(environment).host)}:{DEFAULT_GRPC_PORT if port is None else port}"


def api_key(environment: Mapping[str, str]) -> str:
    """Reads the key for the server from VLLAMA_API_KEY; CommandFailed for one that no header can carry."""
    try:
        return checked_api_key(environment.get("VLLAMA_API_KEY", ""))
    except ValueError as error:
        raise CommandFailed(f"VLLAMA_API_KEY: {error}.") from None


def bracketed(host: str) -> str:
    """Puts an IPv6 address into brackets."""
    return f"[{host}]" if ":" in host else host


def _variable(environment: Mapping[str, str]) -> tuple[str, str]:
    for name in ("VLLAMA_HOST", "OLLAMA_HOST"):
        text = environment.get(name, "").strip().strip("\"'")
        if text:
            return name, text
    return "VLLAMA_HOST", "127.0.0.1"


def _with_brackets(rest: str) -> str:
    """Puts a bare IPv6 address into brackets, as a URL requires."""
    host, slash, path = rest.partition("/")
    return f"[{host}]{slash}{path}" if host.count(":") > 1 and not host.startswith("[") else rest


def _port(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise CommandFailed(f"{name} is {text!r}; a port is a number from 1 to 65535.")
    return int(text)
