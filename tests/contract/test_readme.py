"""The table of promises names a test for each of them, and every test that it names exists and can fail."""

from __future__ import annotations

import ast
from functools import cache
from importlib.metadata import version
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROWS = [
    tuple(cell.strip() for cell in line.strip("|\n").split(" | "))
    for line in Path(__file__).with_name("README.md").read_text().splitlines()
    if line.startswith("|") and " | " in line and not line.startswith("| ---")
]
PROMISES = [row for row in ROWS if row[1] in ("MUST", "SHOULD", "MAY", "LATER")]
CLIENTS = {row[0]: row[1] for row in ROWS if row[2].startswith("contract/") and row not in PROMISES}


CHECKS = {"raises", "timeout", "model_validate_json", "model_validate"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def _tests_in(path: Path) -> dict[str, bool]:
    """The test functions of a file, each with whether it can fail: it asserts, has a limit, or calls what does."""
    functions = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, FUNCTIONS)}
    can_fail = {name for name, node in functions.items() if _asserts(node)}
    while more := {name for name, node in functions.items() if _called(node) & can_fail} - can_fail:
        can_fail |= more
    return {name: name in can_fail for name in functions if name.startswith("test_")}


def _asserts(function: ast.AST) -> bool:
    if any(isinstance(node, ast.Assert) for node in ast.walk(function)):
        return True
    # A model that validates raises for what does not fit.
    return any(name in CHECKS or name.startswith("assert") for name in _called(function))


def _called(function: ast.AST) -> set[str]:
    """Names of the functions and methods that it calls."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    return names | {call.attr for call in calls if isinstance(call, ast.Attribute)}


def test_the_table_is_read() -> None:
    """The parser of this file finds the rows that the page has."""
    assert len(PROMISES) > 100
    assert sum(row[1] == "MUST" for row in PROMISES) > 60


def test_every_promise_is_held_by_a_test_that_can_fail() -> None:
    """What must or should hold names at least one test; each one that is named exists, and asserts something."""
    for promise, priority, tests, *_ in PROMISES:
        references = [reference for reference in tests.split(", ") if reference]
        assert references or priority in ("MAY", "LATER"), promise
        for reference in references:
            path, _, name = reference.partition("::")
            assert _tests_in(TESTS / path).get(name), f"{promise}: {reference} does not exist, or asserts nothing"


def test_a_test_that_asserts_nothing_is_found(tmp_path: Path) -> None:
    """Directly, or through a function of its file."""
    file = tmp_path / "test_x.py"
    file.write_text(
        "def helper():\n    assert 1\ndef test_a():\n    helper()\ndef test_b():\n    len([])\n"
        "async def test_c():\n    with pytest.raises(KeyError):\n        await x()\n"
    )
    assert _tests_in(file) == {"test_a": True, "test_b": False, "test_c": True}


def test_the_versions_are_those_that_run() -> None:
    """The page says the versions of the clients that are installed."""
    for client, package in {
        "ollama (Python)": "ollama",
        "openai (Python)": "openai",
        "anthropic (Python)": "anthropic",
        "langchain-ollama": "langchain-ollama",
    }.items():
        assert CLIENTS[client] == version(package)
