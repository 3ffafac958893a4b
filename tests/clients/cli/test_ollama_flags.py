"""Ollama's flags of `run` are accepted."""

from __future__ import annotations

import pytest

from vllama_clients.cli.ollama_flags import as_spelled_here


@pytest.mark.parametrize(
    ("typed", "here"),
    [
        ("run m --hidethinking hi", "run m --hide-thinking hi"),
        ("run m --think", "run m --think"),
        ("run m --think=true", "run m --think"),
        ("run m --think=false hi", "run m --no-think hi"),
        ("run --think=high m", "run --effort=high m"),
        ("run m --nowordwrap hi", "run m hi"),
        ("run m -- --nowordwrap", "run m -- --nowordwrap"),
        ("list --nowordwrap", "list --nowordwrap"),
        ("", ""),
    ],
)
def test_the_flags_of_run_may_be_spelt_as_ollamas(typed: str, here: str) -> None:
    """They become ours; a prompt after "--", and other commands, stay as they are."""
    assert as_spelled_here(typed.split()) == here.split()
