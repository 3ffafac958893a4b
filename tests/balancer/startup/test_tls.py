"""Certificates that are renewed while the process runs: for HTTPS, and for the channels to workers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from tests.balancer.conftest import QUICK_HEALTH
from tests.balancer.scripted_worker import ScriptedWorker, eventually
from vllama_balancer.certificates.authority import Pair, issue, make_authority
from vllama_balancer.fleet.events import Added
from vllama_balancer.startup.tls import TlsFiles
from vllama_balancer.workers.channel import secure_channel_opener
from vllama_balancer.workers.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import grpc


class Certificates:
    """The files of one process, and the authority that signs them."""

    def __init__(self, path: Path) -> None:
        self.files = TlsFiles(path / "own.pem", path / "own-key.pem", path / "authority.pem")
        self.renew()

    def renew(self) -> Pair:
        """Replaces all three, also the authority; returns the process's own pair."""
        authority = make_authority("vllama", 10)
        own = issue(authority, "own", ["127.0.0.1"], 10)
        assert self.files.authority is not None
        self.files.authority.write_bytes(authority.certificate_pem)
        self.files.certificate.write_bytes(own.certificate_pem)
        self.files.key.write_bytes(own.key_pem)
        return own


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """A certificate that is valid."""
    return Certificates(tmp_path)


@pytest.fixture
async def https(certificates: Certificates) -> AsyncIterator[int]:
    """A TLS server that closes every connection; returns its port."""

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0, ssl=certificates.files.server_context())
    async with server:
        yield server.sockets[0].getsockname()[1]


async def serial_at(port: int) -> int:
    """Connects, and returns the serial number of the server's certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return x509.load_der_x509_certificate(certificate).serial_number


def serial_of(pair: Pair) -> int:
    return x509.load_pem_x509_certificate(pair.certificate_pem).serial_number


async def test_https_shows_a_renewed_certificate_to_the_next_client(certificates: Certificates, https: int) -> None:
    """Without a restart, again and again."""
    before = await serial_at(https)
    for _ in range(2):
        renewed = serial_of(certificates.renew())
        assert renewed != before
        assert await serial_at(https) == renewed


async def test_half_of_a_renewal_is_not_shown(certificates: Certificates, https: int) -> None:
    """The old pair serves until the new one is complete."""
    before = await serial_at(https)
    old_key = certificates.files.key.read_bytes()
    renewed = certificates.renew()
    certificates.files.key.write_bytes(old_key)
    assert await serial_at(https) == before
    certificates.files.key.unlink()
    assert await serial_at(https) == before
    certificates.files.key.write_bytes(renewed.key_pem)
    assert await serial_at(https) == serial_of(renewed)


class TlsWorker(ScriptedWorker):
    """A worker that shows and demands certificates, those of the files at its start."""

    def __init__(self, files: TlsFiles) -> None:
        super().__init__("w", "127.0.0.1:0")
        self._files = files

    def bind(self, server: grpc.aio.Server) -> None:
        port = server.add_secure_port(self.address, self._files.server_credentials())
        self.address = f"127.0.0.1:{port}"


@pytest.fixture
async def worker(certificates: Certificates) -> AsyncIterator[TlsWorker]:
    """One that runs."""
    made = TlsWorker(certificates.files)
    await made.start()
    yield made
    await made.die()


@pytest.fixture
async def pool(certificates: Certificates) -> AsyncIterator[Pool]:
    """An empty pool whose channels use the certificates."""
    files = certificates.files
    made = Pool(QUICK_HEALTH, secure_channel_opener(files.channel_credentials, files.stamp))
    yield made
    await made.close()


async def test_a_worker_is_reached_again_after_a_renewal(
    certificates: Certificates, worker: TlsWorker, pool: Pool
) -> None:
    """The channel from before trusts another authority, and would never connect again."""
    pool.apply(Added("w", worker.address))
    found = pool.find("w")
    assert found is not None
    await eventually(lambda: not found.unavailable)
    await worker.die()
    certificates.renew()
    await worker.start()
    await eventually(lambda: found.incarnation.boot_id == worker.boot_id and not found.unavailable)


async def test_a_worker_that_comes_while_a_file_is_missing_is_reached_later(
    certificates: Certificates, worker: TlsWorker, pool: Pool
) -> None:
    """It is listed with the cause until then."""
    key = certificates.files.key.read_bytes()
    certificates.files.key.unlink()
    pool.apply(Added("w", worker.address))
    found = pool.find("w")
    assert found is not None
    await eventually(lambda: "own-key.pem" in found.unavailable)
    certificates.files.key.write_bytes(key)
    await eventually(lambda: not found.unavailable)
