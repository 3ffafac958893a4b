"""API keys: a file of names, hashes and scopes, for both front doors.

A line of the file is `NAME:SHA256 FIELD=VALUE ...`; `#` begins a comment. The field `scope` lists what the key may do;
other fields are ignored and named in the log. A plain SHA-256 is enough, because keys are random and long. Make one
with `python -m vllama_balancer.keys NAME`, which prints the key for the client and the line for the file.

A wrong line is refused at the start. Later changes of the file take effect within seconds: removing a line revokes its
key. Then a wrong line is left out and named in the log, so that it does not keep a revoked key alive.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import logging
import re
import secrets
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from vllama_balancer.errors import ConfigError, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    Version = tuple[int, int, int]
    """Inode, size and date of a file."""

logger = logging.getLogger(__name__)

MISSING = "a valid API key is required: send it as Authorization: Bearer KEY, or as x-api-key"
"""Message to a caller without a valid key."""
RELOAD_SECONDS = 1.0
"""Between two looks at the key file."""

_LINE = re.compile(r"([^:\s]+):([0-9a-f]{64})((?:\s+[a-z_]+=\S*)*)")
_SCOPE = "scope"


class Scope(StrEnum):
    """A right of a caller."""

    INFER = "infer"
    """Use models, and list them."""
    MODELS = "models"
    """Pull, create, copy and delete models."""
    FLEET = "fleet"
    """List, drain and restart workers, unload models, and set a priority above others'."""
    METRICS = "metrics"
    """Read /metrics."""


ALL_SCOPES = frozenset(Scope)
DEFAULT_SCOPES = frozenset({Scope.INFER})
"""Scopes of a key whose line names none."""


def parse_scopes(text: str) -> frozenset[Scope]:
    """Reads a comma list of scopes. Raises ValueError whose text completes "it must be …"."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not ALL_SCOPES.issuperset(words):
        raise ValueError(f"a list of {', '.join(Scope)}")
    return frozenset(map(Scope, words))


def scopes_text(scopes: Iterable[Scope]) -> str:
    """Returns scopes as a comma list, always in the same order."""
    found = frozenset(scopes)
    return ",".join(scope for scope in Scope if scope in found)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One accepted key."""

    owner: str
    """Name of its line. Two keys may have one owner."""
    digest: bytes
    """SHA-256 of the key."""
    scopes: frozenset[Scope] = DEFAULT_SCOPES


class ApiKeys:
    """The accepted keys; those of a file follow its changes."""

    def __init__(
        self,
        keys: Iterable[ApiKey],
        file: Path | None = None,
        version: Version | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`file` is where the keys came from when it had this version."""
        self._keys = tuple(keys)
        self._file = file
        self._version = version
        self._clock = clock
        self._looked_at = clock()

    @classmethod
    def load(cls, path: Path, *, clock: Callable[[], float] = time.monotonic) -> ApiKeys:
        """Reads a key file. Raises ConfigError naming the file and the wrong line."""
        version = _version(path)
        try:
            lines = _Lines(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the API key file {path} cannot be read: {error}", field="api_keys") from error
        if lines.wrong:
            raise ConfigError(f"{lines.wrong[0]} of the API key file {path}", field="api_keys")
        if not lines.keys:
            raise ConfigError(f"the API key file {path} holds no key, so nobody could call", field="api_keys")
        lines.warn(path)
        return cls(lines.keys, path, version, clock=clock)

    def find(self, key: str) -> ApiKey:
        """Returns the entry of a key. Raises Unauthenticated for an unknown key.

        Every hash is compared, so that the time does not depend on the key.
        """
        self._follow_file()
        given = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
        found = None
        for entry in self._keys:
            if hmac.compare_digest(given, entry.digest):
                found = entry
        if found is None:
            raise Unauthenticated(MISSING)
        return found

    def _follow_file(self) -> None:
        # Looked at by the requests themselves: one `stat` a second, and no task to keep alive.
        if self._file is None or self._clock() - self._looked_at < RELOAD_SECONDS:
            return
        self._looked_at = self._clock()
        version = _version(self._file)
        if version == self._version:
            return
        try:
            lines = _Lines(self._file.read_text())
        except (OSError, UnicodeDecodeError) as error:
            if self._version is not None:
                logger.error("the API key file %s cannot be read, so the keys stay as they were: %s", self._file, error)
            self._version = None
            return
        self._version = version
        self._keys = tuple(lines.keys)
        logger.info("the API key file %s was read again: %d keys", self._file, len(self._keys))
        for wrong in lines.wrong:
            logger.error("%s of the API key file %s; this key is not accepted", wrong, self._file)
        lines.warn(self._file)


def _version(file: Path) -> Version | None:
    """Returns what changes with a file; None for one that cannot be seen."""
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


class _Lines:
    """The content of a key file."""

    def __init__(self, text: str) -> None:
        self.keys: list[ApiKey] = []
        self.wrong: list[str] = []
        """The cause of each wrong line, with its number."""
        self._without_scope: list[str] = []
        self._ignored: set[str] = set()
        for number, line in enumerate(text.splitlines(), start=1):
            if content := line.partition("#")[0].strip():
                try:
                    self.keys.append(self._key(content))
                except ValueError as error:
                    self.wrong.append(f"{error}: line {number}")

    def warn(self, path: Path) -> None:
        """Logs what a file leaves to defaults."""
        if self._without_scope:
            names = ", ".join(dict.fromkeys(self._without_scope))
            logger.warning(
                "%s in %s: no scopes, so infer alone; add scope=infer,models,fleet,metrics as needed", names, path
            )
        if self._ignored:
            logger.warning("%s: unknown fields are ignored: %s", path, ", ".join(sorted(self._ignored)))

    def _key(self, content: str) -> ApiKey:
        match = _LINE.fullmatch(content)
        if match is None:
            raise ValueError("not NAME:SHA256 FIELD=VALUE, as `vllama key NAME` prints it")
        owner, digest = match[1], bytes.fromhex(match[2])
        fields = dict(field.split("=", 1) for field in match[3].split())
        self._ignored |= fields.keys() - {_SCOPE}
        if _SCOPE not in fields:
            self._without_scope.append(owner)
            return ApiKey(owner, digest)
        try:
            return ApiKey(owner, digest, parse_scopes(fields[_SCOPE]))
        except ValueError as error:
            raise ValueError(f"scope={fields[_SCOPE]} must be {error}") from None


def make_key() -> tuple[str, str]:
    """Returns a new random key and its SHA-256 in hex."""
    key = f"vl-{secrets.token_urlsafe(32)}"
    return key, hashlib.sha256(key.encode()).hexdigest()


def main() -> None:
    """Prints a new key, and the line for the key file, for the name given as argument."""
    parser = argparse.ArgumentParser(
        prog="vllama key",
        description="Makes an API key and the line for the server's key file.",
        epilog="Example: vllama key alice --scope infer,models, then vllama serve --api-key-file FILE with that line "
        "in FILE. A running server reads the file again when it changes.",
        allow_abbrev=False,
    )
    parser.add_argument("name", type=_name, metavar="NAME", help="whose key it is; without blanks and colons")
    parser.add_argument(
        "--scope", type=_scopes, metavar="SCOPES", default=DEFAULT_SCOPES,
        help="what the key may do, a comma list of infer (use models), models (pull, create, copy, delete), fleet "
        "(list, drain, restart workers) and metrics; default infer",
    )  # fmt: skip
    arguments = parser.parse_args()
    key, digest = make_key()
    line = f"{arguments.name}:{digest} {_SCOPE}={scopes_text(arguments.scope)}"
    sys.stdout.write(f"key for the client:    {key}\nline for the key file: {line}\n")


def _name(text: str) -> str:
    if not _LINE.fullmatch(f"{text}:{'0' * 64}"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a name without blanks and colons")
    return text


def _scopes(text: str) -> frozenset[Scope]:
    try:
        return parse_scopes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be {error}") from None


if __name__ == "__main__":
    main()
