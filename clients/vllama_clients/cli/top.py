"""`vllama top`: the fleet, live."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from google.protobuf import json_format
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from vllama_clients.cli.fleet_client import fleet_of
from vllama_clients.cli.fleet_table import fleet_table, why

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllama_protos.v1 import fleet_pb2


def command(
    once: Annotated[bool, typer.Option("--once", help="Print the fleet once and leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the fleet once, as JSON.")] = False,
) -> None:
    """Shows the fleet live: state, load and speed of every worker. Ctrl-C leaves.

    Off a terminal it prints the fleet once.
    """
    with fleet_of(os.environ) as fleet:
        if as_json:
            print(json_format.MessageToJson(fleet.list(), preserving_proto_field_name=True))
        elif once or not sys.stdout.isatty():
            Console().print(_view(fleet.list()))
        else:
            _watch(fleet.watch())


def _watch(fleets: Iterable[fleet_pb2.ListWorkersResponse]) -> None:
    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        for fleet in fleets:
            live.update(_view(fleet), refresh=True)


def _view(fleet: fleet_pb2.ListWorkersResponse) -> Group:
    causes = [f"{worker.name}: {why(worker)}" for worker in fleet.workers if why(worker)]
    return Group(fleet_table(fleet), *(Text(f"\n{cause}", style="red") for cause in causes))
