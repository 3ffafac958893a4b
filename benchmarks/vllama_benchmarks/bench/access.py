"""API key and TLS settings of the targets."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from vllama_clients.connection import Tls


@dataclass(frozen=True, slots=True)
class Access:
    """Access settings, the same for all targets of one measurement."""

    api_key: str = field(default="", repr=False)
    """Sent with every request; empty: none."""
    authority: str | None = None
    """PEM text of the authority that signs the servers' certificates; None: the system's."""

    def http_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def http_tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority)

    def grpc_tls(self) -> Tls:
        return Tls(None if self.authority is None else self.authority.encode())
