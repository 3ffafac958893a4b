"""API keys: a file of names and hashes, checked in constant time, for both front doors.

The file holds `name:sha256-in-hex` lines; `#` begins a comment. A plain SHA-256 is enough because
keys are random and long: there is nothing to guess, so nothing to slow down. Make one with
`python -m vllama_balancer.keys NAME`, which prints the key for the client and the line for the file.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import re
import secrets
import sys
from typing import TYPE_CHECKING

from vllama_balancer.errors import ConfigError, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LINE = re.compile(r"([^:\s]+):([0-9a-f]{64})")
_BEARER = "bearer "

MISSING = "a valid API key is required: send it as Authorization: Bearer KEY, or as x-api-key"
"""Message to a caller without a valid key."""


class ApiKeys:
    """The accepted keys: names and their SHA-256 digests."""

    def __init__(self, hashes: Mapping[str, bytes]) -> None:
        self._hashes = dict(hashes)

    @classmethod
    def load(cls, path: Path) -> ApiKeys:
        """Reads a key file. Raises ConfigError naming the file and the wrong line."""
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the API key file {path} cannot be read: {error}", field="api_keys") from error
        hashes: dict[str, bytes] = {}
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip()
            match = _LINE.fullmatch(text)
            if text and match is None:
                message = f"line {number} of the API key file {path} is not NAME:SHA256; "
                raise ConfigError(message + f"`python -m {__spec__.name}` makes one", field="api_keys")
            if match is not None:
                hashes[match[1]] = bytes.fromhex(match[2])
        if not hashes:
            raise ConfigError(f"the API key file {path} holds no key, so nobody could call", field="api_keys")
        return cls(hashes)

    def owner(self, key: str) -> str:
        """Returns the name of a key. Raises Unauthenticated for an unknown key.

        Every hash is compared, so that the time does not depend on the key.
        """
        given = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
        found = ""
        for name, expected in self._hashes.items():
            if hmac.compare_digest(given, expected):
                found = name
        if not found:
            raise Unauthenticated(MISSING)
        return found

    def owner_of(self, headers: Mapping[str, str]) -> str:
        """Returns the name of the key in `Authorization: Bearer` or `x-api-key`. Raises Unauthenticated."""
        authorization = headers.get("Authorization") or headers.get("authorization") or ""
        if authorization[: len(_BEARER)].lower() == _BEARER and authorization[len(_BEARER) :].strip():
            return self.owner(authorization[len(_BEARER) :].strip())
        return self.owner(headers.get("x-api-key") or "")


def make_key() -> tuple[str, str]:
    """Returns a new random key and its SHA-256 in hex."""
    key = f"vl-{secrets.token_urlsafe(32)}"
    return key, hashlib.sha256(key.encode()).hexdigest()


def main() -> None:
    """Prints a new key, and the line for the key file, for the name given as argument."""
    parser = argparse.ArgumentParser(
        prog="vllama key",
        description="Makes an API key and the line for the server's key file.",
        epilog="Example: vllama key alice, then vllama serve --api-key-file FILE with that line in FILE",
        allow_abbrev=False,
    )
    parser.add_argument("name", type=_name, metavar="NAME", help="whose key it is; without blanks and colons")
    name = parser.parse_args().name
    key, digest = make_key()
    sys.stdout.write(f"key for the client:    {key}\nline for the key file: {name}:{digest}\n")


def _name(text: str) -> str:
    if not _LINE.fullmatch(f"{text}:{'0' * 64}"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a name without blanks and colons")
    return text


if __name__ == "__main__":
    main()
