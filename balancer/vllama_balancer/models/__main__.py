"""`python -m vllama_balancer.models resolve NAME`: prints the directory or hub id that a worker can load.

For commands that must not import the balancer. The answer goes to standard output, progress to standard error. Exit
status 1 and one sentence if there is no such model.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vllama_balancer.config import parse
from vllama_balancer.errors import BalancerError
from vllama_balancer.models.lines import ProgressLines
from vllama_balancer.models.resolve import Resolver
from vllama_balancer.models.store import Store
from vllama_balancer.models.table import ModelTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_balancer.models.table import KnownModel


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m vllama_balancer.models")
    commands = parser.add_subparsers(dest="command", required=True)
    resolve = commands.add_parser("resolve", help="install the model if need be and print where it is")
    resolve.add_argument("name", metavar="NAME", help="model name, Hugging Face id, directory or .gguf file")
    commands.add_parser("list", help="print the names that can be installed")
    chosen = parser.parse_args(arguments)
    try:
        config = parse([], os.environ, home=Path.home())
        table = ModelTable.load(config.models_directory / "models.toml")
        if chosen.command == "list":
            print(*map(_line, table), sep="\n")
            return 0
        resolver = Resolver(Store(config.models_directory), table, os.environ)
        lines = ProgressLines(sys.stderr, chosen.name)
        try:
            print(asyncio.run(resolver.resolve(chosen.name, lines.show)).weights)
        finally:
            lines.end()
    except BalancerError as error:
        print(f"vllama: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _line(model: KnownModel) -> str:
    way_in = f" (gated: accept it at huggingface.co/{model.repository} and set HF_TOKEN)" if model.gated else ""
    return f"{model.name}\t{model.parameters}\t{model.license}{way_in}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
