"""TLS settings of the commands: VLLAMA_CA, else the system's authorities; VLLAMA_CERT and VLLAMA_CERT_KEY."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vllama_clients.cli.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "VLLAMA_CA"
CERTIFICATE_VARIABLE = "VLLAMA_CERT"
KEY_VARIABLE = "VLLAMA_CERT_KEY"


def authority(environment: Mapping[str, str]) -> str | None:
    """Reads the PEM text of the authority; None means the system's. CommandFailed for an unreadable file."""
    return _text(VARIABLE, environment)


def own_certificate(environment: Mapping[str, str]) -> tuple[bytes | None, bytes | None]:
    """Reads the client certificate and key for mutual TLS over gRPC; None for neither.

    CommandFailed for an unreadable file, or one without the other.
    """
    certificate, key = _text(CERTIFICATE_VARIABLE, environment), _text(KEY_VARIABLE, environment)
    if (certificate is None) != (key is None):
        raise CommandFailed(f"{CERTIFICATE_VARIABLE} and {KEY_VARIABLE} need each other; set both or neither.")
    return (None, None) if certificate is None or key is None else (certificate.encode(), key.encode())


def _text(variable: str, environment: Mapping[str, str]) -> str | None:
    name = environment.get(variable, "").strip()
    if not name:
        return None
    try:
        return Path(name).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{variable} names {name!r}, which is no readable PEM file: {error}.") from error
