"""The systemd units: valid by systemd's own check, and true to the commands that they start."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.flags import unknown_flags

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNITS = sorted(path.name for path in FOLDER.iterdir())
INSTALLED = "/opt/vllama/.venv/bin/vllama"


def command_of(unit: str) -> list[str]:
    """The words that a unit starts."""
    lines = (FOLDER / unit).read_text(encoding="utf-8").splitlines()
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    return shlex.split(start.partition("=")[2])


@pytest.mark.parametrize("unit", UNITS)
def test_flags_exist(unit: str) -> None:
    """The unit starts a command of ours with flags that it takes."""
    program, command, *words = command_of(unit)
    assert program == INSTALLED
    assert unknown_flags(command, words) == []


@pytest.mark.parametrize("unit", UNITS)
def test_stopping_waits_for_the_drain(unit: str) -> None:
    """The unit is killed no later than it must, and not before the streams have ended."""
    words = command_of(unit)
    drain = int(words[words.index("--drain-timeout") + 1].removesuffix("s"))
    lines = dict(line.partition("=")[::2] for line in (FOLDER / unit).read_text(encoding="utf-8").splitlines())
    assert drain < int(lines["TimeoutStopSec"])
    assert lines["KillMode"] == "mixed"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_agrees(unit: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing, once the program and the account exist."""
    text = (FOLDER / unit).read_text(encoding="utf-8").replace(INSTALLED, "/bin/true")
    text = text.replace("User=vllama", "User=root").replace("Group=vllama", "Group=root")
    (tmp_path / unit).write_text(text.replace("Documentation=file:/opt", "Documentation=file:/usr"), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / unit], capture_output=True, text=True, timeout=60, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if unit in line]
    assert complaints == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS)
def test_units_are_sandboxed(unit: str) -> None:
    """Systemd's own score, of 10 for no sandbox at all, is 3.0 or better; memory is bounded."""
    done = subprocess.run(
        ["systemd-analyze", "--offline=true", "--no-pager", "security", FOLDER / unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    score = re.search(r"Overall exposure level for .*: ([\d.]+) ", done.stdout)
    assert score and float(score[1]) <= 3.0
    assert "\nMemoryMax=" in (FOLDER / unit).read_text(encoding="utf-8")
