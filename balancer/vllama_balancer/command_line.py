"""The flags of the balancer process, and a help that fits a screen.

`--help` shows the flags that people need, `--help-all` every one: a list of forty hides what a reader looks for.
"""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING, Any, NoReturn

from vllama_balancer.errors import ConfigError
from vllama_balancer.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllama_balancer.settings import Setting

EVERYDAY = (
    "host", "port", "grpc-port", "workers", "worker", "engine", "device", "max-queue", "max-streams", "max-model-len",
    "gpu-memory-utilization", "models", "keep-alive", "api-key-file",
)  # fmt: skip
"""Flags of the short help."""
FLAGS_COLUMNS = 34
"""Columns for a flag and its value; the longest of those that are always shown fits."""
EXAMPLES = """\
examples:
  vllama serve                                the model that comes along
  vllama serve qwen2.5:7b                     one worker for each GPU
  vllama serve qwen2.5:7b bge-m3 --workers 4  two models share four workers

Every flag has a twin in the environment: --max-queue is VLLAMA_MAX_QUEUE."""


def read(argv: Sequence[str], default_model: str) -> Mapping[str, Any]:
    """Reads what is on the command line, as text: "names", and each setting by its target, None when it is not there.

    Raises ConfigError for what is no flag; SystemExit(0) once help has been printed.
    """
    return vars(_parser(default_model, is_complete=False).parse_args(list(argv)))


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process, so that every refusal reads the same."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


class _HelpAll(argparse.Action):
    """Prints the help with all flags in it."""

    def __init__(self, *args: Any, default_model: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._default_model = default_model

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        _parser(self._default_model, is_complete=True).print_help()
        parser.exit()


def _parser(default_model: str, *, is_complete: bool) -> argparse.ArgumentParser:
    """Makes the parser; its help has every flag when it is to be complete."""
    parser = _Parser(
        prog="vllama serve",
        usage="vllama serve [MODEL ...] [FLAGS]",
        description="Serves models to Ollama, OpenAI and gRPC clients, over a fleet of workers.",
        epilog=EXAMPLES,
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=FLAGS_COLUMNS),
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"models to serve (default {default_model})")
    parser.add_argument(
        "--help-all",
        action=_HelpAll,
        nargs=0,
        default_model=default_model,
        dest=argparse.SUPPRESS,
        help="show all flags",
    )
    for setting in SETTINGS:
        _add(parser, setting, is_shown=is_complete or setting.flag in EVERYDAY)
    return parser


def _add(parser: argparse.ArgumentParser, setting: Setting, *, is_shown: bool) -> None:
    options: dict[str, Any] = {"dest": setting.target, "default": None}
    options["help"] = setting.help if is_shown else argparse.SUPPRESS
    if setting.switch:
        parser.add_argument(f"--{setting.flag}", action="store_const", const="1", **options)
    else:
        action = "append" if setting.repeatable else "store"
        parser.add_argument(f"--{setting.flag}", action=action, metavar=setting.metavar, **options)
