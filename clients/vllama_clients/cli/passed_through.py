"""Commands that are programs of other packages: `vllama NAME` becomes `python -m MODULE`, flags untouched.

The commands import none of those packages. A shell that completes a flag gets it from the program: from its help, or,
where the program is built with typer too, from the program's own completion.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer  # noqa: TC002 - typer reads the annotations when the command is built
from typer._click.shell_completion import CompletionItem
from typer.core import TyperCommand

from vllama_clients.cli.exec_module import exec_module

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer._click import Context

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
HELP_TIMEOUT_SECONDS = 10.0
"""The cursor waits meanwhile."""


@dataclass(frozen=True, slots=True)
class Program:
    """A module of the installation that a command becomes."""

    module: str
    """What is run."""
    help_command: tuple[str, ...]
    """Module and flag that print all its flags."""
    completes_itself: bool = False
    """True for a typer program, which answers a shell's completion call by itself."""


PROGRAMS = {
    "serve": Program("vllama_balancer", ("vllama_balancer.config", "--help-all")),
    "worker": Program("vllama_server", ("vllama_server", "--help-all")),
    "bench": Program("vllama_benchmarks.bench", ("vllama_benchmarks.bench", "--help-all"), completes_itself=True),
    "demo": Program("vllama_benchmarks.demo", ("vllama_benchmarks.demo", "--help"), completes_itself=True),
    "simulate": Program("vllama_benchmarks.simulate", ("vllama_benchmarks.simulate", "--help")),
    "key": Program("vllama_balancer.keys", ("vllama_balancer.keys", "--help")),
    "certs": Program("vllama_balancer.certificates", ("vllama_balancer.certificates", "--help")),
}
"""Programs by command; `worker` has a module of its own as well, which resolves the model's name first."""


def passed_through(program: Program) -> type[TyperCommand]:
    """Returns the class of the command for a program."""

    class PassedThrough(TyperCommand):
        """Completes the program's flags."""

        def shell_complete(self, ctx: Context, incomplete: str) -> list[CompletionItem]:
            if program.completes_itself:
                exec_module(program.module, ())
            if not incomplete.startswith("-"):
                return []
            return [CompletionItem(flag) for flag in _flags_of(program) if flag.startswith(incomplete)]

    return PassedThrough


def started(program: Program) -> Callable[[typer.Context], None]:
    """Returns the function of the command: it replaces this process with the program."""

    def command(context: typer.Context) -> None:
        exec_module(program.module, context.args)

    return command


def _flags_of(program: Program) -> list[str]:
    command = [sys.executable, "-m", *program.help_command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HELP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return []
    return sorted(set(FLAG.findall(done.stdout)))
