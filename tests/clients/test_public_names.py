"""The package's public names, and that the command does not pay for them."""

import subprocess
import sys

import pytest

import vllama_clients


def test_every_public_name_is_there() -> None:
    """What `__all__` promises can be imported."""
    assert len(vllama_clients.__all__) > 10
    for name in vllama_clients.__all__:
        assert getattr(vllama_clients, name) is not None, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails as in any other package."""
    with pytest.raises(AttributeError, match="Clint"):
        vllama_clients.Clint  # noqa: B018


def test_importing_the_package_does_not_import_grpc() -> None:
    """`vllama --help` must not wait for grpc."""
    code = "import sys, vllama_clients; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
