"""Whom the commands trust: the authority in VLLAMA_CA, or else the system's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vllama_clients.cli.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "VLLAMA_CA"


def authority(environment: Mapping[str, str]) -> str | None:
    """Reads the PEM text of the authority; None means the system's. CommandFailed for an unreadable file."""
    name = environment.get(VARIABLE, "").strip()
    if not name:
        return None
    try:
        return Path(name).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{VARIABLE} names {name!r}, which is no readable PEM file: {error}.") from error
