"""The comparison with the last release finds each kind of break, and lets additions pass."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
BASE = """
syntax = "proto3";
package vllama.v1;

service Greeter {
  rpc Greet(Hello) returns (stream Answer);
  rpc Leave(Hello) returns (Answer);
}

message Hello {
  string name = 1;
  optional int32 age = 2;
  repeated string titles = 3;
  oneof kind {
    bool loud = 4;
    bool quiet = 5;
  }
  message Inner {
    int32 depth = 1;
  }
}

message Answer {
  Mood mood = 1;
}

enum Mood {
  MOOD_UNSPECIFIED = 0;
  MOOD_GOOD = 1;
}
"""


@pytest.fixture(scope="module")
def breaking() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("breaking", ROOT / "protos" / "breaking.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def breaks(breaking: ModuleType, folder: Path, after: dict[str, str]) -> list[str]:
    """Compares BASE in "greeter.proto" with other files."""
    for name, files in (("before", {"greeter.proto": BASE}), ("after", after)):
        (folder / name).mkdir()
        for file, text in files.items():
            (folder / name / file).write_text(text, encoding="utf-8")
    return list(breaking.breaks(breaking.described(folder / "before"), breaking.described(folder / "after")))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("  string name = 1;\n", "", "vllama.v1.Hello.name = 1 was removed"),
        ("string name = 1", "string name = 9", "vllama.v1.Hello.name has number 9 instead of 1"),
        ("string name = 1", "bytes name = 1", "vllama.v1.Hello.name has the type bytes instead of string"),
        ("Mood mood = 1", "int32 mood = 1", "vllama.v1.Answer.mood has the type int32 instead of vllama.v1.Mood"),
        ("repeated string", "string", "vllama.v1.Hello.titles has the cardinality optional instead of repeated"),
        ("optional int32", "int32", "vllama.v1.Hello.age has the presence implicit instead of explicit"),
        (
            "oneof kind {\n    bool loud = 4;",
            "bool loud = 4; oneof kind {",
            "vllama.v1.Hello.loud has the oneof none instead of kind",
        ),
        ("    int32 depth = 1;\n", "", "vllama.v1.Hello.Inner.depth = 1 was removed"),
        ("  message Inner {\n    int32 depth = 1;\n  }\n", "", "vllama.v1.Hello.Inner was removed"),
        ("  MOOD_GOOD = 1;\n", "", "vllama.v1.Mood.MOOD_GOOD = 1 was removed"),
        ("MOOD_GOOD = 1", "MOOD_GOOD = 2", "vllama.v1.Mood.MOOD_GOOD has number 2 instead of 1"),
        ("  rpc Leave(Hello) returns (Answer);\n", "", "vllama.v1.Greeter.Leave was removed"),
        (
            "Leave(Hello)",
            "Leave(Answer)",
            "vllama.v1.Greeter.Leave has the input type .vllama.v1.Answer instead of .vllama.v1.Hello",
        ),
        (
            "stream Answer",
            "Answer",
            "vllama.v1.Greeter.Greet has the server streaming False instead of True",
        ),
    ],
)
def test_a_break_is_found(breaking: ModuleType, tmp_path: Path, old: str, new: str, sentence: str) -> None:
    """One changed declaration yields exactly one sentence that names it."""
    assert old in BASE
    assert breaks(breaking, tmp_path, {"greeter.proto": BASE.replace(old, new)}) == [sentence]


def test_a_renamed_field_breaks_code_and_json(breaking: ModuleType, tmp_path: Path) -> None:
    """The number alone does not make a field the same."""
    found = breaks(breaking, tmp_path, {"greeter.proto": BASE.replace("string name", "string title")})
    assert found == [
        "vllama.v1.Hello.name = 1 is now called title",
        "vllama.v1.Hello.name has the JSON name title instead of name",
    ]


def test_a_moved_declaration_breaks_imports(breaking: ModuleType, tmp_path: Path) -> None:
    """Generated code is imported by its file's name."""
    assert "vllama.v1.Hello moved from greeter.proto to other.proto" in breaks(
        breaking, tmp_path, {"other.proto": BASE}
    )


def test_another_kind_of_declaration_breaks(breaking: ModuleType, tmp_path: Path) -> None:
    """A message that became an enum is no message."""
    text = BASE.replace("Mood mood = 1;", "int32 mood = 1;").replace("enum Mood {", "message Mood {")
    text = text.replace("  MOOD_UNSPECIFIED = 0;\n  MOOD_GOOD = 1;\n", "")
    assert "vllama.v1.Mood became another kind of declaration" in breaks(breaking, tmp_path, {"greeter.proto": text})


def test_additions_pass(breaking: ModuleType, tmp_path: Path) -> None:
    """New fields, values, methods and files break no client."""
    text = BASE.replace("string name = 1;", "string name = 1;\n  string nickname = 6;")
    text = text.replace("MOOD_GOOD = 1;", "MOOD_GOOD = 1;\n  MOOD_BAD = 2;")
    text = text.replace("rpc Leave", "rpc Return(Hello) returns (Answer);\n  rpc Leave")
    more = 'syntax = "proto3"; package vllama.v1; message More { int32 a = 1; }'
    assert breaks(breaking, tmp_path, {"greeter.proto": text, "more.proto": more}) == []


def test_the_last_release_is_the_newest_tag_below(breaking: ModuleType, tmp_path: Path) -> None:
    """Protos of a tag are read from git; without a tag there is nothing to compare with."""

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    git("init", "-q")
    proto = tmp_path / "protos" / "deep" / "greeter.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text(BASE, encoding="utf-8")
    git("add", ".")
    git("commit", "-qm", "one")
    assert breaking.last_release(tmp_path) is None
    git("tag", "v0.1.0")
    git("commit", "-qm", "two", "--allow-empty")
    assert breaking.last_release(tmp_path) == "v0.1.0"
    breaking.export(tmp_path, "v0.1.0", tmp_path / "exported")
    assert (tmp_path / "exported" / "deep" / "greeter.proto").read_text(encoding="utf-8") == BASE


def test_nothing_released_is_broken() -> None:
    """The protos fit the clients of the last release."""
    command = [sys.executable, ROOT / "protos" / "breaking.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
