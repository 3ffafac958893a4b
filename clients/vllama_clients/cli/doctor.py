"""`vllama doctor`: checks the machine and prints each finding with what to do about it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllama_clients.cli.address import DEFAULT_GRPC_PORT, DEFAULT_PORT
from vllama_clients.doctor.findings import Level
from vllama_clients.doctor.probes import examine

if TYPE_CHECKING:
    from vllama_clients.doctor.findings import Finding

MARKS = {Level.OK: ("ok", "green"), Level.WARNING: ("warning", "yellow"), Level.PROBLEM: ("problem", "red")}
SUBJECT_COLUMNS = 14


def command(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="HTTP port that is to be used.")] = DEFAULT_PORT,
    grpc_port: Annotated[int, typer.Option(help="gRPC port that is to be used.")] = DEFAULT_GRPC_PORT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Checks Python, packages, GPU, memory, disk, ports and hub, and tells what to do.

    Ends with status 1 if something would keep vllama from serving.

    Example: vllama doctor --json
    """
    console = Console()
    found = []
    for finding in examine(context.obj, port, grpc_port):
        found.append(finding)
        if not as_json:
            _print(console, finding)
    if as_json:
        print(json.dumps([asdict(finding) | {"level": finding.level.value} for finding in found], indent=2))
    if any(finding.level is Level.PROBLEM for finding in found):
        raise typer.Exit(1)


def _print(console: Console, finding: Finding) -> None:
    mark, style = MARKS[finding.level]
    advice = f"\n{finding.advice}" if finding.advice else ""
    row = Table.grid(padding=(0, 1))
    row.add_column(width=max(len(word) for word, _ in MARKS.values()))
    row.add_column(width=SUBJECT_COLUMNS)
    row.add_column()
    row.add_row(Text(mark, style), finding.subject, Text.assemble(finding.text, (advice, "bold")))
    console.print(row)
