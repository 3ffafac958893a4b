"""The table of a page, written from a kept comparison."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vllama_benchmarks.bench.cell import Cell
from vllama_benchmarks.bench.readme import PageError, table, with_table
from vllama_benchmarks.bench.record import record
from vllama_benchmarks.bench.sample import Sample
from vllama_benchmarks.bench.summary import ratios

NOT_MEASURED = "Not measured on a quiet machine yet; `make bench` fills this in."
ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {"model": "m", "prompt_tokens": "64", "max_tokens": "128", "repeats": 1, "engine_args": ["a=1"]}


def cells() -> list[Cell]:
    """Three doors at one and at fifty streams."""
    return [
        Cell(name, streams, 0, seconds, [Sample(seconds, ttft, 100, 64)])
        for streams in (1, 50)
        for name, seconds, ttft in (("bare", 1.0, 0.050), ("chat", 1.25, 0.052), ("vllm", 1.6, 0.060))
    ]


def test_the_table_says_what_was_measured() -> None:
    """A row for each door: throughput, the ratios to both bases, the first token and what it is more."""
    kept = json.loads(json.dumps(record(cells(), SETTINGS, ratios(cells(), ["vllm"]))))
    head, _, bare, chat, vllm, _, provenance = table(kept).splitlines()
    assert head.count("|") == chat.count("|") == 8
    assert [word.strip() for word in bare.split("|")[1:-1]] == ["the bare engine", "100", "100", "", "", "50.0", ""]
    assert [word.strip() for word in chat.split("|")[1:-1]] == [
        *("`/api/chat`", "80", "80", "0.800", "1.280", "52.0", "+2.0"),
    ]
    assert "0.625" in vllm
    assert "m, 64 tokens in, 128 out, engine arguments a=1; all targets in turn, 1 times." in provenance


def test_the_table_says_that_requests_alternated() -> None:
    """Readers see how a small difference was found."""
    kept = json.loads(json.dumps(record(cells(), SETTINGS | {"interleaved": True}, ratios(cells()))))
    assert "all targets in turn with every request, 1 times." in table(kept)


def test_only_the_place_of_the_table_changes() -> None:
    """Everything around the two comments stays, and writing twice is writing once."""
    page = "before\n<!-- begin a.json -->\nold\n<!-- end a.json -->\nafter\n"
    once = with_table(page, "a.json", "new")
    assert once == "before\n<!-- begin a.json -->\nnew\n<!-- end a.json -->\nafter\n"
    assert with_table(once, "a.json", "new") == once


def test_a_page_without_a_place() -> None:
    """It is refused with the comments that are missing."""
    with pytest.raises(PageError, match=r"begin a\.json"):
        with_table("nothing", "a.json", "new")


def test_the_page_has_a_place_for_each_record() -> None:
    """What `make bench` writes has its two comments in docs/benchmarks.md."""
    names = set(re.findall(r"--json benchmarks/(\S+)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert names == {"cpu.json", "first-token.json"}
    assert all("new" in with_table(page, name, "new") for name in names)


def test_the_page_is_fresh() -> None:
    """docs/benchmarks.md has the numbers of the kept records."""
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"<!-- begin (\S+) -->", page)):
        path = ROOT / "benchmarks" / name
        if path.exists():
            assert with_table(page, name, table(json.loads(path.read_text(encoding="utf-8")))) == page
        else:
            assert with_table(page, name, NOT_MEASURED) == page


def test_the_command_tells_a_stale_page(tmp_path: Path) -> None:
    """`--check` fails for a page that differs, and passes once it was written."""
    page, kept = tmp_path / "page.md", tmp_path / "a.json"
    page.write_text("<!-- begin a.json -->\n<!-- end a.json -->\n", encoding="utf-8")
    kept.write_text(json.dumps(record(cells(), SETTINGS, ratios(cells(), ["vllm"]))), encoding="utf-8")
    command = [sys.executable, "-m", "vllama_benchmarks.bench.readme", str(page), str(kept)]

    def status(*flags: str) -> int:
        return subprocess.run([*command, *flags], capture_output=True, timeout=60, check=False).returncode

    assert [status("--check"), status(), status("--check")] == [1, 0, 0]
