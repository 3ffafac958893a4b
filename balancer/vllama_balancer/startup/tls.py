"""TLS of both servers and of the channels to workers, from files that may be renewed while the process runs."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from vllama_balancer.errors import ConfigError
from vllama_balancer.workers.channel import open_channel, secure_channel_opener

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vllama_balancer.config import BalancerConfig
    from vllama_balancer.workers.channel import Channel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate, its key, and the authority of the other side's certificates."""

    certificate: Path
    """PEM file with the chain."""
    key: Path
    """PEM file with the private key."""
    authority: Path | None = None
    """PEM file with the authorities whose certificates callers must show; None: callers need none."""

    def check(self) -> None:
        """Raises ConfigError when they are no pair that TLS can use."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--tls-cert {self.certificate} and --tls-key {self.key} cannot be used: {error}"
            ) from None
        if self.authority is not None:
            try:
                context.load_verify_locations(self.authority)
            except (OSError, ValueError) as error:
                raise ConfigError(f"--tls-ca {self.authority} cannot be used: {error}") from None

    def server_credentials(self) -> grpc.ServerCredentials:
        """Returns credentials that read the files anew for every connection."""
        return grpc.dynamic_ssl_server_credentials(
            self._server_configuration(),
            self._renewed,  # type: ignore[arg-type]  # gRPC takes None for "as before"
            require_client_authentication=self.authority is not None,
        )

    def server_context(self) -> ssl.SSLContext:
        """Returns the context of an HTTPS server, which takes renewed files for the next connection.

        Raises ConfigError when the files cannot be used.
        """
        self.check()
        renewal = _ContextRenewal(self)
        context = renewal.load()
        context.sni_callback = renewal.choose
        return context

    def stamp(self) -> tuple[object, ...]:
        """Returns a value that differs once a file was replaced, written, or removed."""
        return tuple(_stamp(path) for path in (self.certificate, self.key, self.authority) if path is not None)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Returns credentials that trust the authority and show the certificate, as the files are now."""
        roots = self.authority.read_bytes() if self.authority is not None else None
        return grpc.ssl_channel_credentials(roots, self.key.read_bytes(), self.certificate.read_bytes())

    def _server_configuration(self) -> grpc.ServerCertificateConfiguration:
        roots = self.authority.read_bytes() if self.authority is not None else None
        return grpc.ssl_server_certificate_configuration(
            [(self.key.read_bytes(), self.certificate.read_bytes())], root_certificates=roots
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Reads the files for the next connection; None keeps what was read before."""
        try:
            self.check()
            return self._server_configuration()
        except (OSError, ConfigError) as error:
            # Half of a renewal, or a mistake: the old certificate serves on.
            logger.warning("renewed certificate not used: %s", error)
            return None


class _ContextRenewal:
    """The certificate of the next HTTPS connection: TLS asks for it after the client's first message."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = files.stamp()
        self._current: ssl.SSLContext | None = None

    def load(self) -> ssl.SSLContext:
        """Reads the files. Raises OSError, ValueError."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._files.certificate, self._files.key)
        return context

    def choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _: str | None, __: ssl.SSLContext) -> None:
        """Reads renewed files, and sets the connection's certificate."""
        stamp = self._files.stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._current = self.load()
            except (OSError, ValueError) as error:
                # Half of a renewal, or a mistake: the old certificate serves on.
                logger.warning("renewed certificate not used: %s", error)
        if self._current is not None:
            connection.context = self._current


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def tls_files(config: BalancerConfig) -> TlsFiles | None:
    """Returns the files of the configuration; None for plain text."""
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return TlsFiles(config.tls_certificate, config.tls_key, config.tls_authority)


def channel_opener(config: BalancerConfig) -> Callable[[str], Channel]:
    """Returns how channels to workers are opened: with mutual TLS if an authority is given, else in plain text.

    Raises ConfigError when the files cannot be used.
    """
    files = tls_files(config)
    if files is None or files.authority is None:
        return open_channel
    files.check()
    return secure_channel_opener(files.channel_credentials, files.stamp)
