"""The committed stubs and the protos' own rules."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTOS = sorted((ROOT / "protos").rglob("*.proto"))


def test_stubs_are_fresh() -> None:
    """The committed stubs are what the pinned compiler makes of the protos."""
    done = subprocess.run(
        [sys.executable, ROOT / "protos" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.name)
def test_every_declaration_is_documented(proto: Path) -> None:
    """A comment stands above every service, method, message, field and enum value."""
    declares = re.compile(r"^\s*(service|rpc|message|enum|oneof|\w[\w.<>, ]* \w+ = \d+;|[A-Z][A-Z_0-9]* = \d+;)")
    lines = proto.read_text(encoding="utf-8").splitlines()
    bare = [
        f"{proto.name}:{number}: {line.strip()}"
        for number, line in enumerate(lines, 1)
        if declares.match(line) and not lines[number - 2].lstrip().startswith("//")
    ]
    assert bare == []


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.name)
def test_enums_start_unspecified(proto: Path) -> None:
    """The zero of every enum means that nothing was said."""
    text = proto.read_text(encoding="utf-8")
    zeros = re.findall(r"^\s*(\w+) = 0;", text, flags=re.MULTILINE)
    assert all(name.endswith("_UNSPECIFIED") for name in zeros)
    assert len(zeros) == len(re.findall(r"^enum ", text, flags=re.MULTILINE))
