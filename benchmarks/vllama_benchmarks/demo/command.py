"""`vllama demo`: starts a fleet, sends it many chats at once, and shows which worker served them and how fast."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from vllama_benchmarks.demo.load import ChatResult, chats
from vllama_benchmarks.demo.table import table
from vllama_benchmarks.fleet_process import started_fleet
from vllama_benchmarks.stoppable import stoppable
from vllama_clients.cli.failure import CommandFailed


def command(
    model: Annotated[str, typer.Option(help="The model.")] = "smollm2:135m",
    streams: Annotated[int, typer.Option(min=1, help="Chats at once.")] = 20,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="Workers of the fleet that is started.")] = 2,
    url: Annotated[str, typer.Option(help="Use the server at this address instead of starting one.")] = "",
    engine: Annotated[str, typer.Option(help="vllm, or fake for a simulation.")] = "vllm",
    timeout_seconds: Annotated[float, typer.Option("--start-timeout", help="Seconds that starting may take.")] = 600,
    as_json: Annotated[bool, typer.Option("--json", help="Print every stream as JSON.")] = False,
) -> None:
    """Starts a fleet, sends it many chats at once, and shows who served them.

    Ends with status 0 only if every stream was complete.

    Example: vllama demo
    """
    console = Console(stderr=as_json)

    def say(text: str) -> None:
        console.print(text, highlight=False)

    async def measure() -> tuple[list[ChatResult], float]:
        async with AsyncExitStack() as stack:
            server = url.rstrip("/")
            if not server:
                say(f"Starting {workers} workers with {model} ...")
                flags = ["--engine", engine]
                fleet = await stack.enter_async_context(started_fleet(model, workers, flags, timeout_seconds, say))
                server = fleet.url
            say(f"Sending {streams} chats to {server} ...")
            begun = time.monotonic()
            return await chats(server, model, streams, max_tokens), time.monotonic() - begun

    outcomes, seconds = asyncio.run(stoppable(measure()))
    if as_json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    else:
        console.print(table(outcomes, seconds))
    _judge(outcomes)


def _judge(outcomes: list[ChatResult]) -> None:
    """Raises CommandFailed unless every stream was complete."""
    broken = [outcome for outcome in outcomes if not outcome.complete]
    if broken:
        first = broken[0].error or ("it was empty" if broken[0].done else "it ended in the middle")
        raise CommandFailed(f"{len(broken)} of {len(outcomes)} streams were not complete; the first: {first}.")
