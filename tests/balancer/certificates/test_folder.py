"""The fleet's certificates: made, signed for hosts, renewed, and changed over to another authority."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from vllama_balancer.certificates.__main__ import main
from vllama_balancer.certificates.authority import hosts_of, issue, name_of, role_of
from vllama_balancer.certificates.folder import CertificateFolder
from vllama_balancer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def certificates(path: Path) -> list[x509.Certificate]:
    """Reads a PEM file."""
    return x509.load_pem_x509_certificates(path.read_bytes())


@pytest.fixture
def folder(tmp_path: Path) -> CertificateFolder:
    """A folder with an authority."""
    made = CertificateFolder(tmp_path)
    made.init()
    return made


def test_init_makes_an_authority_and_a_token_that_only_the_owner_reads(
    folder: CertificateFolder, tmp_path: Path
) -> None:
    """Key and token have mode 0600; the token is long; the authority may sign."""
    assert len((tmp_path / "join-token").read_text().strip()) >= 32
    for secret in ("ca-key.pem", "join-token"):
        assert stat.S_IMODE((tmp_path / secret).stat().st_mode) == 0o600
    (authority,) = certificates(tmp_path / "ca.pem")
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_an_authority_is_never_replaced_by_accident(folder: CertificateFolder, tmp_path: Path) -> None:
    """A second init is refused and changes nothing."""
    before = (tmp_path / "ca-key.pem").read_bytes()
    with pytest.raises(ConfigError, match="holds an authority already"):
        folder.init()
    assert (tmp_path / "ca-key.pem").read_bytes() == before


def test_issue_signs_for_names_and_addresses(folder: CertificateFolder, tmp_path: Path) -> None:
    """A certificate names its hosts, ends when it should, and is signed by the authority."""
    certificate, key = folder.issue("gpu7", ["10.0.0.7", "gpu7.example", "::1"], days=30)
    (issued,) = certificates(certificate)
    assert hosts_of(issued) == ["10.0.0.7", "gpu7.example", "::1"]
    assert issued.not_valid_after_utc - datetime.now(UTC) < timedelta(days=30, minutes=1)
    issued.verify_directly_issued_by(certificates(tmp_path / "ca.pem")[0])
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["ca", "../x", "", "a/b"])
def test_a_name_that_is_no_plain_file_is_refused(folder: CertificateFolder, name: str) -> None:
    """NAME becomes a file name beside the authority's."""
    with pytest.raises(ConfigError, match="plain file name"):
        folder.issue(name, [])


def test_issue_without_an_authority_says_how_to_make_one(tmp_path: Path) -> None:
    """The sentence names the command."""
    with pytest.raises(ConfigError, match="vllama certs init"):
        CertificateFolder(tmp_path).issue("x", [])


def test_rotate_renews_every_certificate_for_the_same_hosts(folder: CertificateFolder, tmp_path: Path) -> None:
    """Keys and serial numbers change, hosts and names do not."""
    folder.issue("a", ["10.0.0.1"])
    folder.issue("b", ["10.0.0.2", "b.example"])
    before = {name: certificates(tmp_path / f"{name}.pem")[0] for name in "ab"}
    assert folder.rotate() == ["a", "b"]
    for name, old in before.items():
        (new,) = certificates(tmp_path / f"{name}.pem")
        assert (hosts_of(new), name_of(new)) == (hosts_of(old), name_of(old))
        assert new.serial_number != old.serial_number
        assert new.public_key() != old.public_key()


def test_rotating_the_authority_keeps_trust_in_the_old_one(folder: CertificateFolder, tmp_path: Path) -> None:
    """ca.pem holds the new authority first and the old one after it; a second change drops the first."""
    folder.issue("a", ["10.0.0.1"])
    (old,) = certificates(tmp_path / "ca.pem")
    folder.rotate(authority=True)
    new, kept = certificates(tmp_path / "ca.pem")
    assert kept == old
    certificates(tmp_path / "a.pem")[0].verify_directly_issued_by(new)
    folder.rotate(authority=True)
    assert old not in certificates(tmp_path / "ca.pem")


def test_the_command_prints_the_flags_to_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`issue` ends with what to give to serve or worker."""
    assert main(["init", str(tmp_path / "certs")]) == 0
    assert main(["issue", str(tmp_path / "certs"), "balancer", "--host", "10.0.0.1"]) == 0
    output = capsys.readouterr().out
    assert f"--tls-cert {tmp_path}/certs/balancer.pem --tls-key {tmp_path}/certs/balancer-key.pem" in output


def test_the_command_fails_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal goes to standard error and ends with status 1."""
    assert main(["rotate", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("vllama certs: ")


@pytest.mark.parametrize(
    ("name", "role", "carried"),
    [
        ("balancer", "", "balancer"),
        ("gpu7", "", "worker"),
        ("client-anna", "", "client"),
        ("gpu8", "balancer", "balancer"),
    ],
)
def test_certificates_carry_their_role(folder: CertificateFolder, name: str, role: str, carried: str) -> None:
    """The one that is given, or else the one that the name says; a rotation keeps it, and the hosts are hosts."""
    certificate, _ = folder.issue(name, ["10.0.0.7"], role=role)
    assert role_of(certificates(certificate)[0]) == carried
    folder.rotate()
    assert role_of(certificates(certificate)[0]) == carried
    assert hosts_of(certificates(certificate)[0]) == ["10.0.0.7"]


def test_a_rotation_gives_a_role_to_a_certificate_without_one(folder: CertificateFolder, tmp_path: Path) -> None:
    """Certificates of an earlier version have none."""
    certificate, _ = folder.issue("balancer", ["10.0.0.1"])
    old = issue(folder.authority(), "balancer", ["10.0.0.1"], 30)
    certificate.write_bytes(old.certificate_pem)
    assert role_of(old.certificate) == ""
    folder.rotate()
    assert role_of(certificates(certificate)[0]) == "balancer"


def test_the_command_takes_a_role(tmp_path: Path) -> None:
    """`--role` of `vllama certs issue`."""
    assert main(["init", str(tmp_path)]) == 0
    assert main(["issue", str(tmp_path), "gpu7", "--role", "client"]) == 0
    assert role_of(certificates(tmp_path / "gpu7.pem")[0]) == "client"
