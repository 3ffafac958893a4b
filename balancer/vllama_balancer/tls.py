"""TLS for both front doors: one certificate and one key, read and checked at the start."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllama_balancer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """Who the server is."""

    certificate: bytes
    """Certificate chain in PEM; gRPC takes it as bytes."""
    private_key: bytes
    """Its private key in PEM."""
    context: ssl.SSLContext
    """The same for HTTP."""


def load_tls(certificate_path: Path | None, key_path: Path | None) -> TlsIdentity | None:
    """Reads certificate and key; None when neither is given.

    Raises ConfigError when only one is given, or they cannot be read or do not belong together.
    """
    if certificate_path is None and key_path is None:
        return None
    if certificate_path is None or key_path is None:
        missing = "--tls-cert" if certificate_path is None else "--tls-key"
        raise ConfigError(f"{missing} is missing: --tls-cert and --tls-key go together", field="tls")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate_path, key_path)
        return TlsIdentity(certificate_path.read_bytes(), key_path.read_bytes(), context)
    except (OSError, ssl.SSLError) as error:
        message = f"--tls-cert {certificate_path} and --tls-key {key_path} cannot be used: {error}"
        raise ConfigError(message, field="tls") from error
