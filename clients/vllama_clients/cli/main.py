"""The entry point of `vllama`.

Only the module of the command that is called is imported: `vllama list` takes a tenth of a second because it loads
neither grpc for `top` nor rich for `pull`.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import typer

from vllama_clients.cli.failure import exit_status
from vllama_clients.cli.long_help import TwoLengths
from vllama_clients.cli.ollama_flags import as_spelled_here
from vllama_clients.cli.passed_through import PROGRAMS, passed_through, started

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

COMMANDS = {
    "serve": "Serves models over the Ollama, OpenAI and gRPC APIs.",
    "worker": "Serves one model on one device over gRPC.",
    "run": "Chats with a model, or answers one prompt.",
    "list": "Lists the models that are installed.",
    "ps": "Lists the models that are loaded, being loaded, or asleep.",
    "show": "Shows what is known of a model.",
    "pull": "Downloads models.",
    "cp": "Gives a model a second name.",
    "rm": "Deletes models.",
    "stop": "Unloads models.",
    "top": "Shows the fleet live: state, load and speed of every worker.",
    "drain": "Takes a worker out of service when its streams have ended.",
    "undrain": "Puts a worker back into service that is being drained.",
    "restart": "Restarts workers one after the other, so that no request fails.",
    "bench": "Measures servers in turn: TTFT, time per token, throughput.",
    "doctor": "Checks Python, packages, GPU, memory, disk, ports and hub.",
    "demo": "Starts a fleet, and sends it many chats at once.",
    "simulate": "Compares placement policies on simulated fleets.",
    "key": "Makes an API key and the line for the server's key file.",
    "certs": "Makes the certificates and the token with which workers join.",
    "version": "Prints the versions of this command and of the server.",
    "completion": "Prints the completion script of a shell.",
}
"""Every command with the first line of its help, so that the list needs no command's module."""

OWN_MODULES = ("worker",)
"""Programs whose arguments a module of the commands prepares."""
TYPER_WORDS = "_TYPER_COMPLETE_ARGS"
"""Where the scripts of zsh and fish put the command line; that of bash uses COMP_WORDS."""
EPILOG = 'Try: vllama run smollm2:135m "Why is the sky blue?"'


def main() -> None:
    """Runs the command line of this process and ends it with its status."""
    # Programs are started by exec: gRPC need not prepare for a fork, nor warn at each. It reads this when imported.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    sys.exit(run(sys.argv[1:], os.environ))


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs one command line and returns its exit status: 0 done, 1 failed, 2 misspelt.

    The commands read the environment from their context and nowhere else.
    """
    built = app(arguments, environment)
    return exit_status(lambda: built(as_spelled_here(arguments), prog_name="vllama", obj=environment))


def app(arguments: Sequence[str], environment: Mapping[str, str]) -> typer.Typer:
    """Builds the command line with the called command in full and the others by name.

    A shell's completion call carries the command line in a variable instead of the arguments.
    """
    line = [*arguments, *environment.get("COMP_WORDS", "").split(), *environment.get(TYPER_WORDS, "").split()]
    called = {word for word in line if not word.startswith("-")}
    built = typer.Typer(
        help="Serves language models from every GPU of a machine, to tools that speak Ollama, OpenAI or gRPC.",
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion="_VLLAMA_COMPLETE" in environment,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    built.callback()(_options)
    for name, summary in COMMANDS.items():
        _add(built, name, _load(name) if name in called else _only_named, summary)
    return built


def _add(built: typer.Typer, name: str, function: Callable[..., None], summary: str) -> None:
    if function is _only_named:
        built.command(name, help=summary)(function)
    elif name in PROGRAMS:
        settings = {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}
        kind = passed_through(PROGRAMS[name])
        built.command(name, help=summary, cls=kind, context_settings=settings, add_help_option=False)(function)
    else:
        built.command(name, cls=TwoLengths)(function)


def _load(name: str) -> Callable[..., None]:
    if name in PROGRAMS and name not in OWN_MODULES:
        return started(PROGRAMS[name])
    function: Callable[..., None] = import_module(f"vllama_clients.cli.{name}").command
    return function


def _only_named() -> None:
    """Placeholder for a command that this command line does not call."""
    raise AssertionError("a command was called that was not loaded")


def _version(context: typer.Context, is_set: bool) -> None:
    if is_set:
        _load("version")(context)
        raise typer.Exit


def _options(
    version: bool = typer.Option(
        False, "--version", "-v", help="Print the versions and leave.", is_eager=True, callback=_version
    ),
) -> None:
    """Declares the options that precede a command; each acts by its own callback."""
