"""The README says what is true: every flag and every metric stands in it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["vllama_balancer", "vllama_server"])
def test_every_flag_is_documented(module: str) -> None:
    """Each flag that a process takes is named in the README."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", done.stdout)) - {"--help"}
    assert len(flags) > 10
    assert sorted(flag for flag in flags if not re.search(rf"`{flag}\b(?!-)", README)) == []


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`make (\w+)`", README))))
def test_every_make_target_exists(name: str) -> None:
    """Each `make` target that the README names is in the Makefile."""
    makefile = (Path(__file__).resolve().parent.parent / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{name}:", makefile, flags=re.MULTILINE)
