"""Readers of single configuration values: text in, value out.

Each raises ValueError with the words that complete "it must be …": `config.py` adds the flag or variable.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllama_balancer.keys import parse_scopes

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllama_balancer.keys import Scope

DEFAULT_PORT = 11434
_SCHEME_PORTS = {"http": 80, "https": 443}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TRUE = frozenset({"1", "t", "true", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "no", "off"})


def clean(text: str) -> str:
    """Trims blanks and quotes, as Ollama does with its variables."""
    return text.strip().strip("\"'").strip()


def natural(text: str) -> int:
    """Reads a whole number, 0 or more."""
    if not text.isascii() or not text.isdigit():
        raise ValueError("a whole number, 0 or more")
    return int(text)


def positive(text: str) -> int:
    """Reads a whole number, 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError("a whole number, 1 or more")
    return int(text)


_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def byte_size(text: str) -> int:
    """Reads a number of bytes such as 33554432 or 32MiB, 1 or more."""
    match = re.fullmatch(r"([0-9]{1,12}) ?([a-z]*)", text.lower(), re.ASCII)
    if match is None or match[2] not in _UNITS or int(match[1]) == 0:
        raise ValueError("a number of bytes such as 33554432 or 32MiB")
    return int(match[1]) * _UNITS[match[2]]


def message_size(text: str) -> int:
    """Reads a number of bytes that fit into one message to a worker."""
    size = byte_size(text)
    if size > 60 << 20:
        raise ValueError("60MiB at most")
    return size


def zero_as_none(text: str) -> int | None:
    """Reads a whole number of which 0 means unset."""
    return natural(text) or None


def port(text: str) -> int:
    """Reads a port; 0 means a free one."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError("a port from 0 to 65535")
    return int(text)


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on."""

    host: str
    """Name or IP address, without brackets."""
    port: int | None
    """TCP port; None: none given."""


def address(text: str) -> Address:
    """Reads host, host:port, :port, [v6]:port or http://host, as in OLLAMA_HOST; a scheme implies its port."""
    scheme, separator, rest = text.partition("://")
    name, number = _split_port((rest if separator else text).partition("/")[0])
    is_port = not number or (number.isascii() and number.isdigit() and int(number) <= 65535)
    if (separator and scheme not in _SCHEME_PORTS) or not is_port or any(mark in name for mark in " []"):
        raise ValueError("an address such as 0.0.0.0, 0.0.0.0:8080 or http://0.0.0.0:8080")
    default_port = _SCHEME_PORTS[scheme] if separator else None
    return Address(name or "127.0.0.1", int(number) if number else default_port)


def one_of(*words: str) -> Callable[[str], str]:
    """Returns a reader of one of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return read


def share(text: str) -> float:
    """Reads a share above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ValueError("a number above 0 and up to 1")
    return value


def boolean(text: str) -> bool:
    """Reads a yes or no."""
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise ValueError("1 or 0")


def path(text: str) -> Path:
    """Reads a path; a leading ~ is the home directory."""
    return Path(text).expanduser()


def key_value(text: str) -> tuple[str, str]:
    """Reads KEY=VALUE."""
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise ValueError("KEY=VALUE")
    return key, value


def worker_address(text: str) -> str:
    """Reads a gRPC target of a worker."""
    target = text.removeprefix("dns:///")
    if target.startswith("unix:") and len(target) > len("unix:"):
        return text
    name, separator, number = target.rpartition(":")
    if not separator or not name or not number.isdigit():
        raise ValueError("host:port, unix:/path or dns:///name:port")
    return text


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Reads an address or a network of addresses."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("an address or a network such as 10.0.0.0/8") from None


def pull_source(text: str) -> str:
    """Reads a source of models: table, any, ORG or ORG/REPO."""
    source = text.removeprefix("https://").removeprefix("huggingface.co/").removeprefix("hf.co/")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source, re.ASCII):
        raise ValueError("table, any, or an organization or repository of the hub such as Qwen or Qwen/Qwen3-8B")
    return source


def scopes(text: str) -> frozenset[Scope]:
    """Reads a comma list of scopes, or none."""
    try:
        return frozenset() if text == "none" else parse_scopes(text)
    except ValueError as error:
        raise ValueError(f"none, or {error}") from None


def duration(text: str) -> float:
    """Reads seconds from a Go duration ("5m", "1h30m") or a bare number of seconds; may be negative."""
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if re.fullmatch(r"\d+(\.\d*)?", rest):
        return sign * float(rest)
    if not rest or _DURATION.sub("", rest):
        raise ValueError('a duration such as "30s" or "5m"')
    return sign * sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(rest))


def timeout(text: str) -> float:
    """Reads a duration that cannot be negative; less than 0 counts as 0."""
    return max(0.0, duration(text))


def ollama_debug(text: str) -> str:
    """Reads OLLAMA_DEBUG: everything but a no means debug."""
    return "info" if text.lower() in _FALSE else "debug"


def ollama_address(text: str) -> Address:
    """Reads OLLAMA_HOST: as an address, but another scheme is ignored, and a bad port becomes 11434."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme not in _SCHEME_PORTS:
        text = rest
    try:
        return address(text)
    except ValueError:
        name, _ = _split_port((rest if separator else text).partition("/")[0])
        return Address(name or "127.0.0.1", DEFAULT_PORT)


def _split_port(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        name, _, rest = authority[1:].partition("]")
        return name, rest.removeprefix(":")
    if authority.count(":") == 1:
        name, _, number = authority.partition(":")
        return name, number
    return authority, ""
