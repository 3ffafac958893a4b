"""A folder of the fleet's certificates: the authority, the certificates it has issued, and the token for joining.

    ca.pem        the trusted authority; during a change of authority the old one as well
    ca-key.pem    stays on the machine where certificates are made
    join-token    a worker shows it to join, and a balancer compares it
    NAME.pem, NAME-key.pem

Files are replaced by rename, so that a reader never finds half of one.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from vllama_balancer.certificates.authority import ROLES, Pair, hosts_of, issue, make_authority, name_of, role_of
from vllama_balancer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

AUTHORITY = "ca"
TOKEN = "join-token"
AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class CertificateFolder:
    """The files in one folder. Every method raises ConfigError with one sentence on failure."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def init(self, days: int = AUTHORITY_DAYS) -> None:
        """Makes the authority and the token for joining. Raises ConfigError if there is an authority."""
        if self._key_path(AUTHORITY).exists():
            raise ConfigError(f"{self._path} holds an authority already; `vllama certs rotate --ca` replaces one")
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write_pair(AUTHORITY, make_authority("vllama fleet", days))
        if not (self._path / TOKEN).exists():
            self._write(self._path / TOKEN, f"{secrets.token_urlsafe(32)}\n".encode(), private=True)

    def issue(self, name: str, hosts: Sequence[str], days: int = CERTIFICATE_DAYS, role: str = "") -> tuple[Path, Path]:
        """Issues a certificate for the hosts, or else for the name; returns the paths of it and its key.

        Without a role the name decides: see `usual_role`.
        """
        if not _NAME.fullmatch(name) or name == AUTHORITY:
            raise ConfigError(f"NAME must be a plain file name other than {AUTHORITY!r}, not {name!r}")
        self._write_pair(name, issue(self.authority(), name, hosts or [name], days, role=role or usual_role(name)))
        return self._certificate_path(name), self._key_path(name)

    def rotate(self, days: int = CERTIFICATE_DAYS, *, authority: bool = False) -> list[str]:
        """Issues every certificate anew, with a new key, for the same hosts; returns their names.

        With `authority`, a new authority signs them. ca.pem holds the old one too until that has expired or the
        authority is replaced again: copy ca.pem to all machines first, then the certificates.
        """
        if authority:
            self._replace_authority()
        signer = self.authority()
        names = self.issued()
        for name in names:
            old = self._certificates(name)[0]
            role = role_of(old) or usual_role(name)
            self._write_pair(name, issue(signer, name_of(old), hosts_of(old), days, role=role))
        return names

    def issued(self) -> list[str]:
        """Returns the names of the issued certificates."""
        keys = {path.name.removesuffix("-key.pem") for path in self._path.glob("*-key.pem")}
        return sorted(name for name in keys - {AUTHORITY} if self._certificate_path(name).exists())

    def _replace_authority(self) -> None:
        old = self.authority().certificate
        days = (old.not_valid_after_utc - old.not_valid_before_utc).days
        new = make_authority(name_of(old), days)
        trusted = [new.certificate, *([old] if old.not_valid_after_utc > datetime.now(UTC) else [])]
        # The trusted certificates are written before the key: a reader of ca.pem accepts both authorities.
        pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in trusted)
        self._write(self._certificate_path(AUTHORITY), pem)
        self._write(self._key_path(AUTHORITY), new.key_pem, private=True)

    def authority(self) -> Pair:
        """Reads the authority: the first certificate of ca.pem and its key."""
        try:
            text = self._key_path(AUTHORITY).read_bytes()
        except OSError as error:
            message = f"{self._key_path(AUTHORITY)} cannot be read ({error.strerror}); `vllama certs init` makes one"
            raise ConfigError(message) from None
        try:
            key = serialization.load_pem_private_key(text, password=None)
        except ValueError as error:
            raise ConfigError(f"{self._key_path(AUTHORITY)} is no private key: {error}") from None
        certificate = self._certificates(AUTHORITY)[0]
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigError(f"{self._key_path(AUTHORITY)} is not the key of {self._certificate_path(AUTHORITY)}")
        return Pair(certificate, key)

    def _certificates(self, name: str) -> list[x509.Certificate]:
        path = self._certificate_path(name)
        try:
            return x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is no readable certificate: {error}") from None

    def _write_pair(self, name: str, pair: Pair) -> None:
        self._write(self._key_path(name), pair.key_pem, private=True)
        self._write(self._certificate_path(name), pair.certificate_pem)

    def _write(self, path: Path, content: bytes, *, private: bool = False) -> None:
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self._path, prefix=f".{path.name}-")
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600 if private else 0o644)
                file.write(content)
            Path(temporary).replace(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from None

    def _certificate_path(self, name: str) -> Path:
        return self._path / f"{name}.pem"

    def _key_path(self, name: str) -> Path:
        return self._path / f"{name}-key.pem"


def usual_role(name: str) -> str:
    """Returns the role of a certificate that is issued without one: the beginning of its name, or else worker."""
    return next((role for role in ROLES if name.startswith(role)), "worker")
