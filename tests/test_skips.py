"""A skipped test fails a run with --fail-on-skip, unless its reason is on the list."""

from __future__ import annotations

import pytest

from tests.skips import LIST, accepted_reasons

MODULE = """
import pytest
{head}

def test_one():
    {statement}
"""


def run(pytester: pytest.Pytester, *arguments: str, statement: str = "pass", head: str = "") -> pytest.RunResult:
    """Runs one test."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function")
    # A conftest of another folder: pytest then takes the plugins apart for each folder.
    other = pytester.mkdir("other")
    (other / "conftest.py").touch()
    (other / "test_other.py").write_text("def test_other():\n    pass\n")
    pytester.makepyfile(test_sample=MODULE.format(statement=statement, head=head))
    return pytester.runpytest_inprocess("-p", "tests.skips", "-p", "no:cacheprovider", *arguments)


@pytest.mark.parametrize(
    ("statement", "arguments", "status"),
    [
        ("pytest.skip('no such program')", ["--fail-on-skip"], 1),
        ("pytest.skip('no such program')", [], 0),
        ("pytest.skip('network namespaces cannot be made here: EPERM')", ["--fail-on-skip"], 0),
        ("pytest.xfail('known')", ["--fail-on-skip"], 0),
        ("pass", ["--fail-on-skip"], 0),
        ("assert False", ["--fail-on-skip"], 1),
    ],
    ids=["refused", "not asked", "on the list", "expected to fail", "passes", "fails"],
)
def test_a_run_fails_for_a_skip(pytester: pytest.Pytester, statement: str, arguments: list[str], status: int) -> None:
    """It fails only when asked, and names the test and the reason."""
    done = run(pytester, *arguments, statement=statement)
    assert done.ret == status
    if arguments and "no such program" in statement:
        done.stdout.fnmatch_lines(["test_sample.py::test_one: Skipped: no such program"])


def test_a_module_that_is_skipped_counts(pytester: pytest.Pytester) -> None:
    """No test of it is left to report."""
    done = run(pytester, "--fail-on-skip", head="pytest.importorskip('no_such_module_here')")
    assert done.ret == 1
    done.stdout.fnmatch_lines(["*could not import 'no_such_module_here'*"])


def test_every_line_of_the_list_says_why() -> None:
    """One without is refused; the list itself is fine."""
    assert accepted_reasons(LIST.read_text())
    with pytest.raises(ValueError, match="needs a tab"):
        accepted_reasons("some reason\n")
