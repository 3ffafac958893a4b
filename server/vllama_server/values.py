"""Readers of flag values: from the text of a flag or variable to a value. A ValueError says what would be right."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

UNIX_PATH_BYTES = 107
"""Longest path of a unix socket on Linux."""
DURATION = r"(\d+(\.\d+)?(ms|s|m|h))+"
UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BEFORE_A_KEY = re.compile(r",(?=\s*[\w.-]+=)")


def word(text: str) -> str:
    """Accepts any text that is not empty."""
    if not text.strip():
        raise ValueError("is empty; give a name.")
    return text


def one_of(*words: str) -> Callable[[str], str]:
    """Returns a reader that accepts one of the words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not known; give one of {', '.join(words)}.")
        return text

    return read


def whole(least: int) -> Callable[[str], int]:
    """Returns a reader of whole numbers from `least` on."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise ValueError(f"{text!r} does not work; give a whole number of {least} or more.")
        return number

    return read


def seconds(text: str) -> float:
    """Reads "30", "30s", "500ms" or "1m30s"."""
    number = _number(text)
    if re.fullmatch(DURATION, text):
        number = sum(float(count) * UNIT_SECONDS[unit] for count, unit in re.findall(r"([\d.]+)([a-z]+)", text))
    if not 0 <= number < math.inf:
        raise ValueError(f"{text!r} does not work; give seconds, 0 or more, such as 30 or 1m30s.")
    return number


def file(text: str) -> str:
    """Checks that there is such a file."""
    if not Path(text).is_file():
        raise ValueError(f"there is no file {text!r}; give the path of one.")
    return text


def share(text: str) -> float:
    """Reads a share above 0 and up to 1."""
    number = _number(text)
    if not 0 < number <= 1:
        raise ValueError(f"{text!r} does not work; give a share above 0 and up to 1, such as 0.9.")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def boolean(text: str) -> bool:
    """Reads true and false in their usual spellings."""
    word = text.lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{text!r} is neither true nor false; give one of them.")


def pair(text: str) -> tuple[str, str]:
    """Reads key=value; a dash in the key is an underscore."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{text!r} is not a setting; write key=value.")
    return key.strip().replace("-", "_"), value.strip()


def tcp_address(text: str) -> str:
    """Checks host:port."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is not an address; write host:port with a port from 0 to 65535.")
    return text


def address(text: str) -> str:
    """Checks host:port or unix:/path."""
    if not text.startswith("unix:"):
        try:
            return tcp_address(text)
        except ValueError:
            raise ValueError(f"{text!r} is not an address; write host:port or unix:/path.") from None
    path = text.removeprefix("unix:")
    if not path or len(path.encode()) > UNIX_PATH_BYTES:
        raise ValueError(
            f"the path of a unix socket has 1 to {UNIX_PATH_BYTES} bytes and this one has {len(path.encode())}; "
            "use another directory."
        )
    return text


def is_loopback(address: str) -> bool:
    """Returns whether only this machine reaches a host:port."""
    host = address.rpartition(":")[0].strip("[]")
    return host == "localhost" or host == "::1" or host.startswith("127.")


def tcp_addresses(text: str) -> tuple[str, ...]:
    """Reads one host:port or several with commas between."""
    return tuple(tcp_address(part.strip()) for part in text.split(",") if part.strip())


def listed(text: str) -> list[str]:
    """Splits the values of an environment variable at commas; empty ones do not count."""
    return [part.strip() for part in text.split(",") if part.strip()]


def pairs(text: str) -> list[str]:
    """Splits key=value pairs at the commas that another key follows, so that a value may hold commas itself."""
    return [part.strip(" ,") for part in _BEFORE_A_KEY.split(text) if part.strip(" ,")]
