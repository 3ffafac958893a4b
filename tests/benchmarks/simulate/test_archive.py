from pathlib import Path

import pytest

from vllama_benchmarks.simulate.archive import Archive, fingerprint_of_sources


def never() -> None:
    """Is not called where a result is kept."""
    raise AssertionError("computed again")


def test_a_result_is_computed_once(tmp_path: Path) -> None:
    """The next call with the same key finds it, in another process too."""
    assert Archive(tmp_path, "f").get("a", [1], lambda: {"x": [1.5]}) == {"x": [1.5]}
    assert Archive(tmp_path, "f").get("a", [1], never) == {"x": [1.5]}


def test_another_question_or_other_sources_start_over(tmp_path: Path) -> None:
    """A kept result is used for its own key and sources only."""
    Archive(tmp_path, "f").get("a", [1], lambda: 1)
    assert Archive(tmp_path, "f").get("a", [2], lambda: 2) == 2
    assert Archive(tmp_path, "g").get("a", [2], lambda: 3) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_broken_file_is_no_file(tmp_path: Path, text: str) -> None:
    """As after an interrupted write."""
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert Archive(tmp_path, "f").get("a", [], lambda: 1) == 1


def test_the_sources_have_one_fingerprint() -> None:
    """The same each time, and no empty one."""
    assert fingerprint_of_sources() == fingerprint_of_sources()
    assert len(fingerprint_of_sources()) == 64
