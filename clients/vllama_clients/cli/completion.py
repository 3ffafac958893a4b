"""`vllama completion`: the script that makes a shell complete this command line."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]


class Shell(Enum):
    """Shells that can be served."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def command(shell: Annotated[Shell, typer.Argument(help="The shell.")]) -> None:
    """Prints the completion script of a shell, e.g. for bash: eval "$(vllama completion bash)"."""
    print(get_completion_script(prog_name="vllama", complete_var="_VLLAMA_COMPLETE", shell=shell.value))
