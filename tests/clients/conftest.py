"""A scripted vllama server, in process, on a real socket."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.clients.scripted_server import Script, delta, finished, start_server, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True)
class Server:
    """A running scripted server."""

    target: str
    script: Script


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A scripted server on a free port; by default it answers hello."""
    script = Script(streams=[[started(), delta("Hello"), delta(" there"), finished()]])
    running, port = await start_server(script, "127.0.0.1:0")
    yield Server(f"127.0.0.1:{port}", script)
    await running.stop(None)


@pytest.fixture(scope="session")
def certificate() -> tuple[bytes, bytes]:
    """A self-signed certificate of localhost and its key, PEM-encoded."""
    return make_certificate()


@pytest.fixture(scope="session")
def other_certificate() -> tuple[bytes, bytes]:
    """Another one."""
    return make_certificate()


def make_certificate() -> tuple[bytes, bytes]:
    """Signs a certificate for localhost with its own key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    chain = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        chain.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
