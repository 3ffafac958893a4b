"""The certificates that commands trust and show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vllama_clients.cli.failure import CommandFailed
from vllama_clients.cli.fleet_client import connection_of
from vllama_clients.cli.tls import authority, own_certificate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """An environment that names three files."""
    named = {"VLLAMA_CA": "ca", "VLLAMA_CERT": "certificate", "VLLAMA_CERT_KEY": "key"}
    for name in named.values():
        (tmp_path / name).write_text(name)
    return {variable: str(tmp_path / name) for variable, name in named.items()}


def test_without_variables_the_system_is_trusted_and_nothing_shown() -> None:
    """The defaults of a plain installation."""
    assert authority({}) is None
    assert own_certificate({}) == (None, None)


def test_the_fleet_commands_show_the_certificate(files: dict[str, str]) -> None:
    """All three files end up in the connection."""
    tls = connection_of(files).tls
    assert tls is not None
    assert (tls.root_certificates, tls.certificate_chain, tls.private_key) == (b"ca", b"certificate", b"key")


def test_a_certificate_without_its_key_is_refused(files: dict[str, str]) -> None:
    """The sentence names both variables."""
    del files["VLLAMA_CERT_KEY"]
    with pytest.raises(CommandFailed, match="VLLAMA_CERT and VLLAMA_CERT_KEY"):
        own_certificate(files)


def test_a_missing_file_is_named(files: dict[str, str]) -> None:
    """The sentence names the variable and the file."""
    files["VLLAMA_CERT"] += "x"
    with pytest.raises(CommandFailed, match="VLLAMA_CERT names"):
        own_certificate(files)
