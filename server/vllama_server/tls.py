"""The worker's certificate, key and trusted authority, from files that may be renewed while it serves."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from vllama_server.errors import ConfigError

if TYPE_CHECKING:
    from vllama_server.config import WorkerConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files."""

    certificate: str
    """The certificate chain."""
    key: str
    """Its private key."""
    authority: str | None = None
    """The authority whose certificates callers must show; None: callers need none."""

    def server_credentials(self) -> grpc.ServerCredentials:
        """Returns credentials that follow the files. Raises ConfigError when certificate and key do not match."""
        self._check()
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._renewed,  # type: ignore[arg-type]  # gRPC takes None for "as before"
            require_client_authentication=self.authority is not None,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Returns a caller's credentials, as the files are now. Raises OSError."""
        roots = Path(self.authority).read_bytes() if self.authority is not None else None
        return grpc.ssl_channel_credentials(roots, Path(self.key).read_bytes(), Path(self.certificate).read_bytes())

    def _check(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--tls-cert and --tls-key: {error}; give a certificate and its own key.") from None
        if self.authority is None:
            return
        try:
            context.load_verify_locations(self.authority)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--tls-ca: {error}; give the certificate of an authority.") from None

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        roots = Path(self.authority).read_bytes() if self.authority is not None else None
        pair = (Path(self.key).read_bytes(), Path(self.certificate).read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns the configuration for the next connection; None keeps the one before."""
        try:
            self._check()
            return self._configuration()
        except (OSError, ConfigError) as error:
            # Half of a renewal, or a mistake: the old certificate stays in use.
            logger.warning("the renewed certificate is not used: %s", error)
            return None


def tls_files(config: WorkerConfig) -> TlsFiles | None:
    """Returns the files of a configuration; None for plain text."""
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return TlsFiles(config.tls_certificate, config.tls_key, config.tls_authority)
