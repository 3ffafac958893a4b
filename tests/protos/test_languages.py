"""The commands of the protos' page make stubs in every language of the compiler."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "protos" / "README.md").read_text(encoding="utf-8")
PROTOC = Path(sys.executable).with_name("protoc")
COMMANDS = re.findall(r"^(protoc .*v1/\*\.proto) +#", PAGE, flags=re.MULTILINE)
NAMES = {"java", "kotlin", "csharp", "cpp", "ruby", "php", "objc", "python"}
FIRST_OF_EACH = {
    "java": "GenerationOuterClass.java",
    "kotlin": "GenerateRequestKt.kt",
    "csharp": "Generation.cs",
    "cpp": "generation.pb.cc",
    "ruby": "generation_pb.rb",
    "php": "GenerateRequest.php",
    "objc": "Generation.pbobjc.m",
    "python": "generation_pb2.py",
}


def language(command: str) -> str:
    """Names the last language that a command makes stubs for: Kotlin's stand upon Java's."""
    return [name for name in re.findall(r"--(\w+)_out", command) if name in NAMES][-1]


def test_every_language_of_the_compiler_is_on_the_page() -> None:
    """The page has one command for each."""
    assert sorted(language(command) for command in COMMANDS) == sorted(NAMES)


def test_every_proto_is_on_the_page() -> None:
    """Each has a link, and is named where a generator takes names."""
    names = sorted(path.stem for path in (ROOT / "protos").rglob("*.proto"))
    assert [name for name in names if f"[{name}](vllama_protos/v1/{name}.proto)" not in PAGE] == []
    assert sorted(re.findall(r'"(\w+)"', next(line for line in PAGE.splitlines() if "let protos" in line))) == names


@pytest.mark.parametrize("command", COMMANDS, ids=language)
def test_the_command_makes_stubs(command: str, tmp_path: Path) -> None:
    """The command as printed succeeds and writes the stubs of the generation service's messages."""
    protos = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "protos").rglob("*.proto"))]
    words = [word.replace("OUT", str(tmp_path)) for word in shlex.split(command)[1:-1]]
    done = subprocess.run([PROTOC, *words, *protos], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert FIRST_OF_EACH[language(command)] in made
