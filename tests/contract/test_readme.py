"""The table of promises names a test for each of them, and every test that it names exists."""

from __future__ import annotations

import ast
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROWS = [
    tuple(cell.strip() for cell in line.strip("|\n").split(" | "))
    for line in Path(__file__).with_name("README.md").read_text().splitlines()
    if line.startswith("|") and " | " in line and not line.startswith("| ---")
]
PROMISES = [row for row in ROWS if row[1] in ("MUST", "SHOULD", "MAY", "LATER")]
CLIENTS = {row[0]: row[1] for row in ROWS if row[2].startswith("contract/") and row not in PROMISES}


@cache
def _tests_in(path: Path) -> frozenset[str]:
    """Names of the test functions of a file."""
    tree = ast.parse(path.read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


def test_the_table_is_read() -> None:
    """The parser of this file finds the rows that the page has."""
    assert len(PROMISES) > 100
    assert sum(row[1] == "MUST" for row in PROMISES) > 60


@pytest.mark.parametrize("row", PROMISES, ids=lambda row: row[0])
def test_every_promise_has_tests_that_exist(row: tuple[str, ...]) -> None:
    """A promise that must or should hold is held by at least one test."""
    references = [reference for reference in row[2].split(", ") if reference]
    assert references or row[1] in ("MAY", "LATER")
    for reference in references:
        path, _, name = reference.partition("::")
        assert name in _tests_in(TESTS / path), reference


def test_the_versions_are_those_that_run() -> None:
    """The page says the versions of the clients that are installed."""
    for client, package in {
        "ollama (Python)": "ollama",
        "openai (Python)": "openai",
        "anthropic (Python)": "anthropic",
        "langchain-ollama": "langchain-ollama",
    }.items():
        assert CLIENTS[client] == version(package)
