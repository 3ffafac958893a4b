"""A command whose flags are another program's: that program prints its help, and names them to a shell.

The commands import neither the balancer nor the worker, so what their flags are is asked of them when
somebody presses the tabulator.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

from typer._click.shell_completion import CompletionItem
from typer.core import TyperCommand

if TYPE_CHECKING:
    from typer._click import Context

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
PATIENCE_SECONDS = 10.0
"""Somebody looks at the cursor meanwhile."""


def passed_through(program: str, *words: str) -> type[TyperCommand]:
    """Makes the class of a command for a module of the installation; `words` have it print all its flags."""

    class PassedThrough(TyperCommand):
        """Completes the program's flags."""

        def shell_complete(self, ctx: Context, incomplete: str) -> list[CompletionItem]:
            """Asks the program for its flags when one has been begun."""
            if not incomplete.startswith("-"):
                return []
            return [CompletionItem(flag) for flag in _flags_of(program, words) if flag.startswith(incomplete)]

    return PassedThrough


def _flags_of(program: str, words: tuple[str, ...]) -> list[str]:
    asked = [sys.executable, "-m", program, *words]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return []
    return sorted(set(FLAG.findall(done.stdout)))
