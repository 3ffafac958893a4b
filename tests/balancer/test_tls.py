"""Certificate and key are checked at the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllama_balancer.errors import ConfigError
from vllama_balancer.tls import load_tls


def test_no_tls_without_files() -> None:
    """Plain text is the default."""
    assert load_tls(None, None) is None


@pytest.mark.parametrize(("cert", "key", "missing"), [("c", None, "--tls-key"), (None, "k", "--tls-cert")])
def test_both_files_are_needed(cert: str | None, key: str | None, missing: str) -> None:
    """The missing flag is named."""
    with pytest.raises(ConfigError, match=f"^{missing} is missing"):
        load_tls(Path(cert) if cert else None, Path(key) if key else None)


def test_unusable_files_are_refused(tmp_path: Path) -> None:
    """What is no certificate is told with both paths."""
    file = tmp_path / "cert.pem"
    file.write_text("no certificate")
    with pytest.raises(ConfigError, match="cannot be used"):
        load_tls(file, file)
