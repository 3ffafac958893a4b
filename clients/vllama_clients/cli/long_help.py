"""Help in two lengths: `--help` fits a screen, `--help-all` shows the seldom needed flags as well.

A command marks such flags by their panel, `rich_help_panel=SELDOM`; shells complete all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

SELDOM = "Seldom needed"
"""Panel of the flags that only the long help shows."""
_IS_LONG = "vllama_clients.cli.long_help"


class TwoLengths(TyperCommand):
    """A command whose --help leaves the seldom needed flags out; --help-all shows them."""

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Prints the help in either length."""
        for parameter in self.params:
            if getattr(parameter, "rich_help_panel", None) == SELDOM:
                parameter.hidden = _IS_LONG not in ctx.meta  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def _show(context: typer.Context, is_set: bool) -> None:
    if is_set and not context.resilient_parsing:
        context.meta[_IS_LONG] = True
        print(context.get_help())
        raise typer.Exit


HelpAll = Annotated[bool, typer.Option("--help-all", is_eager=True, callback=_show, help="Show all flags and exit.")]
"""The flag of the long help."""
