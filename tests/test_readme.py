"""The page of this folder names files that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")


def test_files_and_folders_exist() -> None:
    """Whatever is named by a path, from here or from the root of the repository."""
    named = {path for path in re.findall(r"`([\w/]+(?:\.py)?)`", PAGE) if "/" in path or path.endswith(".py")}
    named -= {"test_handlers.py", "test_golden.py", "test_any_request.py"}  # of each dialect
    named = {path for path in named if not path.startswith("vllama_clients")}
    assert len(named) > 30
    assert [path for path in sorted(named) if not exists(path)] == []


def exists(path: str) -> bool:
    """Whether it is in one of the places where the page looks."""
    places = (ROOT / "tests", ROOT, ROOT / "tests" / "clients" / "cli")
    return any((place / path).exists() for place in places)
