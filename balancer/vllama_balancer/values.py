"""Readers of single configuration values: text in, value out.

Each raises ValueError with the words that complete "it must be …", so that one place can name the
flag or variable and all refusals read alike.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

DEFAULT_PORT = 11434
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


def zero_as_none(text: str) -> int | None:
    """Reads a whole number of which 0 means unset."""
    return natural(text) or None


def port(text: str) -> int:
    """Reads a port; 0 means a free one."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError("a port from 0 to 65535")
    return int(text)


def host(text: str) -> str:
    """Reads a bare host name or address, without a port."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not bare or "/" in bare or " " in bare or bare.count(":") == 1:
        raise ValueError("an address or host name without a port (--port is the port)")
    return bare


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


def keep_alive(text: str) -> float:
    """Reads how long an idle model stays; negative means for ever."""
    return duration(text)


def ollama_debug(text: str) -> str:
    """Reads OLLAMA_DEBUG: anything but a no means debug."""
    return "info" if text.lower() in _FALSE else "debug"


def ollama_host(text: str) -> tuple[str, int]:
    """Reads OLLAMA_HOST: ip, :port, host:port, [v6]:port, http://host; a bad port becomes 11434."""
    scheme, separator, rest = text.partition("://")
    default_port = {"http": 80, "https": 443}.get(scheme, DEFAULT_PORT) if separator else DEFAULT_PORT
    authority = (rest if separator else text).partition("/")[0]
    name, number = _split_port(authority)
    if not number:
        return name or "127.0.0.1", default_port
    valid = number.isascii() and number.isdigit() and int(number) <= 65535
    return name or "127.0.0.1", int(number) if valid else DEFAULT_PORT


def _split_port(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        name, _, rest = authority[1:].partition("]")
        return name, rest.removeprefix(":")
    if authority.count(":") == 1:
        name, _, number = authority.partition(":")
        return name, number
    return authority, ""
