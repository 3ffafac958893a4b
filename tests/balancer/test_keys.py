"""Key files are read strictly, and keys are found by their hash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.errors import ConfigError, Unauthenticated
from vllama_balancer.keys import ApiKeys, make_key

if TYPE_CHECKING:
    from pathlib import Path


def test_a_made_key_is_accepted(tmp_path: Path) -> None:
    """Keys are random; the file holds only hashes, comments and blank lines."""
    key, digest = make_key()
    file = tmp_path / "keys"
    file.write_text(f"# team keys\n\nalice:{digest}  # laptop\nbob:{'0' * 64}\n")
    assert ApiKeys.load(file).owner(key) == "alice"
    assert key not in file.read_text()
    assert make_key()[0] != key


def test_another_key_is_refused() -> None:
    """Only the exact key is accepted."""
    keys = ApiKeys({"alice": hashlib.sha256(b"secret").digest()})
    for wrong in ("", "Secret", "secret ", "\udcff"):
        with pytest.raises(Unauthenticated, match="API key is required"):
            keys.owner(wrong)


@pytest.mark.parametrize("key", [{"authorization": "Bearer secret"}, {"x-api-key": "secret"}])
def test_headers_in_lower_case_are_read(key: dict[str, str]) -> None:
    """Metadata of gRPC has lower-case keys."""
    assert ApiKeys({"alice": hashlib.sha256(b"secret").digest()}).owner_of(key) == "alice"


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no key"), ("# none\n", "holds no key"), ("alice:abc", "line 1"), ("a:" + "0" * 64 + "\nx", "line 2")],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The sentence names the flag and the line."""
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        ApiKeys.load(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(ConfigError, match="cannot be read"):
        ApiKeys.load(tmp_path / "none")


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--holp", 2), ("a b", 2), ("a:b", 2)])
def test_the_command_explains_itself(argument: str, status: int) -> None:
    """`vllama key --help` makes no key for "--help", and a name that would spoil the file is refused."""
    done = subprocess.run(
        [sys.executable, "-m", "vllama_balancer.keys", argument],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status
    assert "usage: vllama key" in (done.stdout if status == 0 else done.stderr)
