"""Runs a typer command of this package as the program that `vllama NAME` becomes: same help, flags and exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from vllama_clients.cli.failure import exit_status
from vllama_clients.cli.long_help import TwoLengths

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def run(name: str, command: Callable[..., None], arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs one command line and returns its exit status.

    The program is a group of one command, so that usage lines and a shell's completion calls read `vllama NAME`.
    """
    built = typer.Typer(
        pretty_exceptions_enable=False,
        add_completion="_VLLAMA_COMPLETE" in environment,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    built.callback()(_group)
    built.command(name, cls=TwoLengths)(command)
    return exit_status(lambda: built([name, *arguments], prog_name="vllama", obj=environment))


def _group() -> None:
    """Has no options: it makes typer keep the command's name."""
