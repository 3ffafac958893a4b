"""Ollama's spellings of the flags of `run`, rewritten to ours.

Ollama's `--think` may have a value, which a flag of ours cannot; some of its flags have no effect here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SPELLINGS = {
    "--hidethinking": "--hide-thinking",
    "--think=true": "--think",
    "--think=false": "--no-think",
}
WITHOUT_EFFECT = ("--nowordwrap", "--insecure")
"""Words are never wrapped here, and the server decides which hub to trust."""
LEVEL = "--think="


def as_spelled_here(arguments: Sequence[str]) -> list[str]:
    """Rewrites the flags of `run`; those of other commands, and what follows a "--", stay as they are."""
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    return list(_rewritten(arguments)) if command == "run" else list(arguments)


def _rewritten(arguments: Sequence[str]) -> Iterator[str]:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for argument in arguments[:end]:
        if argument in SPELLINGS:
            yield SPELLINGS[argument]
        elif argument.startswith(LEVEL):
            yield f"--effort={argument.removeprefix(LEVEL)}"
        elif argument not in WITHOUT_EFFECT:
            yield argument
    yield from arguments[end:]
