"""`vllama certs`: becomes the balancer's maker of certificates."""

from __future__ import annotations

import typer  # noqa: TC002 - typer reads the annotations when the command is built

from vllama_clients.cli.replace import replace


def command(context: typer.Context) -> None:
    """Makes the certificates and the token with which workers join a balancer."""
    replace("vllama_balancer.certificates", context.args)
