"""`vllama top`: the fleet, live."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from google.protobuf import json_format
from rich.console import Console
from rich.live import Live
from rich.text import Text

from vllama_clients.cli.fleet_client import fleet_of
from vllama_clients.cli.fleet_table import fleet_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllama_protos.v1 import fleet_pb2

STYLES = (
    (("ready",), "green"),
    (("draining", "warm up", "starting", "load", "asleep"), "yellow"),
    (("failed", "retry"), "red"),
)


def command(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Print the fleet once and leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the fleet once, as JSON.")] = False,
) -> None:
    """Shows the fleet live: state, load and speed of every worker. Ctrl-C leaves.

    Off a terminal it prints the fleet once.

    Example: vllama top
    """
    with fleet_of(context.obj) as fleet:
        if as_json:
            print(json_format.MessageToJson(fleet.list(), preserving_proto_field_name=True))
        elif once or not sys.stdout.isatty():
            print(fleet_text(fleet.list(), None))
        else:
            _watch(fleet.watch())


def _watch(fleets: Iterable[fleet_pb2.ListWorkersResponse]) -> None:
    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for fleet in fleets:
            text = Text(fleet_text(fleet, console.width))
            for words, style in STYLES:
                text.highlight_words(words, style)
            live.update(text, refresh=True)
