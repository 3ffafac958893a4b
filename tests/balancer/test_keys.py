"""Key files are read strictly, and keys are found by their hash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from vllama_balancer.errors import ConfigError, Unauthenticated
from vllama_balancer.keys import RELOAD_SECONDS, ApiKey, ApiKeys, Scope, make_key, parse_scopes

if TYPE_CHECKING:
    from pathlib import Path

SECRET = hashlib.sha256(b"secret").digest()
HEX = SECRET.hex()


def test_a_made_key_is_accepted(tmp_path: Path) -> None:
    """Keys are random; the file holds only hashes, comments and blank lines."""
    key, digest = make_key()
    file = tmp_path / "keys"
    file.write_text(f"# team keys\n\nalice:{digest}  # laptop\nbob:{'0' * 64}\n")
    assert ApiKeys.load(file).find(key).owner == "alice"
    assert key not in file.read_text()
    assert make_key()[0] != key


def test_another_key_is_refused() -> None:
    """Only the exact key is accepted."""
    keys = ApiKeys([ApiKey("alice", SECRET)])
    for wrong in ("", "Secret", "secret ", "\udcff"):
        with pytest.raises(Unauthenticated, match="API key is required"):
            keys.find(wrong)


@pytest.mark.parametrize("compared", [slice(1), slice(2), slice(-1, None), slice(15, 17)])
def test_the_whole_hash_is_compared(compared: slice) -> None:
    """A key whose hash equals the right one in a part is refused."""
    similar = next(
        str(number)
        for number in range(1_000_000)
        if hashlib.sha256(str(number).encode()).digest()[compared] == SECRET[compared]
    )
    with pytest.raises(Unauthenticated):
        ApiKeys([ApiKey("alice", SECRET)]).find(similar)


@pytest.mark.parametrize(
    ("fields", "scopes"),
    [
        ("", {Scope.INFER}),
        (" scope=models", {Scope.MODELS}),
        ("  scope=infer,models,fleet,metrics  # all", set(Scope)),
        (" weight=2 scope=metrics expires=2030-01-01", {Scope.METRICS}),
    ],
)
def test_a_line_has_scopes(tmp_path: Path, fields: str, scopes: set[Scope]) -> None:
    """Without the field a key may infer; fields that this version does not have are ignored."""
    file = tmp_path / "keys"
    file.write_text(f"alice:{HEX}{fields}\n")
    assert ApiKeys.load(file).find("secret").scopes == scopes


def test_what_is_left_to_defaults_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The lines without scopes and the ignored fields, by name."""
    file = tmp_path / "keys"
    file.write_text(f"old:{HEX}\nnew:{HEX} scope=infer weight=2\n")
    ApiKeys.load(file)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert caplog.messages[0].startswith("old in ") and "add scope=" in caplog.messages[0]
    assert "ignored: weight" in caplog.messages[1]


class FileOfKeys:
    """A key file that a test changes, and its keys on a clock of its own."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.now = 0.0
        self.path.write_text(text)
        self.keys = ApiKeys.load(path, clock=lambda: self.now)

    def write(self, text: str) -> None:
        """Replaces the file, as an editor does, and lets the time pass until the next look."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)
        self.now += RELOAD_SECONDS

    def accepts(self, key: str) -> bool:
        try:
            return bool(self.keys.find(key))
        except Unauthenticated:
            return False


@pytest.fixture
def changed(tmp_path: Path) -> FileOfKeys:
    """The key "secret" of alice."""
    return FileOfKeys(tmp_path / "keys", f"alice:{HEX}\n")


def test_a_removed_key_is_revoked(changed: FileOfKeys) -> None:
    """Without a restart, also if it was the only one; a new key is accepted at the same time."""
    changed.write(f"bob:{hashlib.sha256(b'new').hexdigest()}\n")
    assert (changed.accepts("secret"), changed.accepts("new")) == (False, True)
    changed.write("")
    assert not changed.accepts("new")


def test_changed_scopes_take_effect(changed: FileOfKeys) -> None:
    """As soon as the file is read again."""
    changed.write(f"alice:{HEX} scope=models\n")
    assert changed.keys.find("secret").scopes == {Scope.MODELS}


def test_a_file_is_looked_at_once_a_second(changed: FileOfKeys) -> None:
    """Requests in between cost no system call."""
    changed.path.unlink()
    changed.path.write_text("")
    changed.now = RELOAD_SECONDS / 2
    assert changed.accepts("secret")
    changed.now = RELOAD_SECONDS
    assert not changed.accepts("secret")


def test_a_wrong_line_keeps_no_other_key_alive(changed: FileOfKeys, caplog: pytest.LogCaptureFixture) -> None:
    """The line is left out and named; the rest counts."""
    changed.write(f"bob:{hashlib.sha256(b'new').hexdigest()}\nalice;{HEX}\ncarol:{HEX} scope=all\n")
    assert (changed.accepts("secret"), changed.accepts("new")) == (False, True)
    assert "line 2 of the API key file" in caplog.text and "line 3 of the API key file" in caplog.text


def test_an_unreadable_file_changes_nothing(changed: FileOfKeys, caplog: pytest.LogCaptureFixture) -> None:
    """An error is logged once; when the file is back, it counts."""
    changed.path.unlink()
    for _ in range(3):
        changed.now += RELOAD_SECONDS
        assert changed.accepts("secret")
    assert caplog.text.count("cannot be read") == 1
    changed.write("")
    assert not changed.accepts("secret")


def test_a_key_rotates(tmp_path: Path) -> None:
    """Two lines of one name are two keys of one owner."""
    file = tmp_path / "keys"
    file.write_text(f"alice:{HEX}\nalice:{hashlib.sha256(b'new').hexdigest()}\n")
    keys = ApiKeys.load(file)
    assert [keys.find(key).owner for key in ("secret", "new")] == ["alice", "alice"]


@pytest.mark.parametrize("text", ["", "all", "infer;models", "Infer"])
def test_wrong_scopes_are_refused(text: str) -> None:
    """The error lists the right ones."""
    with pytest.raises(ValueError, match="infer, models, fleet, metrics"):
        parse_scopes(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("# none\n", "holds no key"),
        ("alice:abc", "line 1"),
        ("a:" + "0" * 64 + "\nx", "line 2"),
        ("a:" + "0" * 64 + " scope=all", "scope=all must be a list of infer, models, fleet, metrics: line 1"),
        ("a:" + "0" * 64 + " models", "line 1"),
    ],
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


@pytest.mark.parametrize(
    ("arguments", "line"), [(["alice"], "infer"), (["alice", "--scope", "fleet,models"], "models,fleet")]
)
def test_the_command_prints_a_line_with_the_scopes(tmp_path: Path, arguments: list[str], line: str) -> None:
    """The file takes it as it is."""
    done = subprocess.run(
        [sys.executable, "-m", "vllama_balancer.keys", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    key, text = (row.partition(":")[2].strip() for row in done.stdout.splitlines())
    assert text.endswith(f" scope={line}")
    (tmp_path / "keys").write_text(text)
    assert ApiKeys.load(tmp_path / "keys").find(key).scopes == parse_scopes(line)


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
