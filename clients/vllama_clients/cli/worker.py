"""`vllama worker`: becomes one worker, after resolving the model's name to the directory of its weights.

Names like "smollm2:135m" are resolved by the balancer's package, which neither the worker nor the commands import: a
process of its own does it first. The simulated engine takes names as they are.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import typer  # noqa: TC002 - typer reads the annotations when the command is built

from vllama_clients.cli.exec_module import exec_module
from vllama_clients.cli.failure import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SWITCHES = ("--deterministic", "--trust-client-templates", "--insecure", "--help", "-h", "--help-all")
"""Flags of the worker that take no value; every other one takes the next argument, or has it after "="."""


def command(context: typer.Context) -> None:
    """Serves one model on one device over gRPC."""
    exec_module("vllama_server", with_weights(context.args, context.obj))


def with_weights(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Puts the directory of the weights in the place of the model's name, and the name into --served-name."""
    position = model_position(arguments)
    engine = _value_of("--engine", arguments) or environment.get("VLLAMA_ENGINE", "")
    if position is None or engine == "fake":
        return list(arguments)
    name = arguments[position]
    served = [] if _value_of("--served-name", arguments) else ["--served-name", name]
    return [*arguments[:position], _resolve(name), *served, *arguments[position + 1 :]]


def model_position(arguments: Sequence[str]) -> int | None:
    """Finds the one argument that is neither a flag nor a flag's value."""
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if not argument.startswith("-"):
            return position
        position += 1 if "=" in argument or argument in SWITCHES else 2
    return None


def _value_of(flag: str, arguments: Sequence[str]) -> str:
    for position, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
    return ""


def _resolve(name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vllama_balancer.models", "resolve", name],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        # That process has printed the cause on the standard error that both share.
        raise CommandFailed(f"The weights of {name!r} cannot be had; the lines above say why.")
    return lines[-1]
