"""`vllama bench`: measures targets in turn, and shows throughput and latency against concurrency."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from enum import Enum
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vllama_clients.bench import specification
from vllama_clients.bench.access import Access
from vllama_clients.bench.command_target import CommandTarget
from vllama_clients.bench.comparison import DOORS, VLLM, Comparison, opened
from vllama_clients.bench.page import page
from vllama_clients.bench.plan import Plan, run
from vllama_clients.bench.record import record
from vllama_clients.bench.summary import lines, ratios
from vllama_clients.bench.tables import comparison, rates, times
from vllama_clients.bench.workload import Workload, length, read_trace
from vllama_clients.cli.address import http_address
from vllama_clients.cli.failure import CommandFailed
from vllama_clients.cli.stoppable import stoppable
from vllama_clients.cli.tls import authority

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vllama_clients.bench.cell import Cell
    from vllama_clients.bench.sample import Sample
    from vllama_clients.bench.summary import Ratio
    from vllama_clients.bench.watch import Watch


class Preset(Enum):
    """Ready-made sets of targets."""

    COMPARE = "compare"


def command(
    context: typer.Context,
    preset: Annotated[
        Preset | None, typer.Argument(help="compare: start the model behind every door and measure them all.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="name=ollama:URL, name=openai:URL, name=grpc:HOST:PORT (grpcs: with TLS) or name=command:LINE; "
            "repeatable."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="The model.")] = "smollm2:135m",
    concurrency: Annotated[str, typer.Option(help="Streams at once, e.g. 1,5,10.")] = "1,5,10,20,50",
    prompt_tokens: Annotated[str, typer.Option(help="Prompt length: 128, 64-256 or lognormal:128:0.8.")] = "64",
    max_tokens: Annotated[str, typer.Option(help="Output length, likewise.")] = "128",
    trace: Annotated[Path | None, typer.Option(help='Lines of {"prompt", "max_tokens"} to send instead.')] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Requests at each concurrency; default 3 each.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Times that the targets take turns.")] = 3,
    warm_up: Annotated[int, typer.Option(min=0, help="Requests to each target before measuring.")] = 2,
    timeout_seconds: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one request.")] = 600,
    seed: Annotated[int, typer.Option(help="Seed of lengths and words.")] = 0,
    watch: Annotated[list[str] | None, typer.Option(help="name=PID: tell that process's CPU per token.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every sample to this file.")] = None,
    engine: Annotated[str, typer.Option(help="With compare: vllm, or fake for a simulation.")] = "vllm",
    bare: Annotated[str, typer.Option(help="With compare: another program that is the bare engine.")] = "",
    doors: Annotated[str, typer.Option(help="With compare: which doors.")] = ",".join(DOORS),
    engine_arg: Annotated[list[str] | None, typer.Option(help="With compare: key=value for all engines.")] = None,
    serve_arg: Annotated[list[str] | None, typer.Option(help="With compare: flag for the balancer.")] = None,
    vllm_arg: Annotated[list[str] | None, typer.Option(help="With compare: flag for vLLM's own server.")] = None,
    samples: Annotated[bool, typer.Option(help="Keep every request in the JSON file.")] = True,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page with charts to this file.")] = None,
) -> None:
    """Measures servers in turn: TTFT, time per token, throughput, errors.

    The first target is what the others are compared with. Example:
    vllama bench --target a=ollama:http://127.0.0.1:11434 --target b=grpc:127.0.0.1:50051
    """
    texts, watched = target or [], watch or []
    if not texts and preset is None:
        texts = [f"server=ollama:{http_address(context.obj)}"]
    try:
        workload = Workload(length(prompt_tokens), length(max_tokens), read_trace(trace) if trace else ())
        streams = specification.concurrencies(concurrency)
        names = [*specification.targets(texts, model, Access()), *(DOORS if preset else ())]
        specification.watches(watched, names)
        _check_doors(doors)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    settings = {
        "model": model,
        "targets": texts,
        "prompt_tokens": str(trace or prompt_tokens),
        "max_tokens": str(trace or max_tokens),
        "engine_args": engine_arg or [],
        "repeats": repeats,
        "seed": seed,
    }
    comparison = None
    if preset:
        comparison = Comparison(
            model, engine, bare, engine_arg or [], doors.split(","), serve_arg or [], vllm_arg or []
        )

    cells: list[Cell] = []

    async def measured() -> None:
        async with AsyncExitStack() as stack:
            if comparison is not None:
                doors = await stack.enter_async_context(opened(comparison, _say))
                texts[:0], watched[:0] = doors.targets, doors.watches
            access = Access(context.obj.get("VLLAMA_API_KEY", ""), authority(context.obj))
            targets = specification.targets(texts, model, access)
            plan = Plan(targets, workload, streams, requests, repeats, warm_up, timeout_seconds, seed)
            await _measure(plan, specification.watches(watched, list(targets)), cells)

    try:
        uvloop.run(stoppable(measured()))
    finally:
        # Whoever stops a long measurement keeps the turns that were measured to their end.
        if cells:
            compared = ratios(cells, [VLLM] if preset else [])
            _show(cells, compared, record(cells, settings, compared, samples=samples), json_file, html_file)
    _judge(cells)


def _check_doors(text: str) -> None:
    unknown = [door for door in text.split(",") if door not in DOORS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no door: choose among {', '.join(DOORS)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _measure(plan: Plan, watches: Mapping[str, Watch], cells: list[Cell]) -> None:
    """Adds the cells to `cells` as they are measured."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with AsyncExitStack() as stack:
        for target in plan.targets.values():
            if isinstance(target, CommandTarget):
                stack.push_async_callback(target.close)
        with Progress(*columns, console=Console(stderr=True)) as progress:
            async for cell in run(plan, watches, _begins(progress)):
                cells.append(cell)  # noqa: PERF401 - a comprehension that is stopped would keep none


def _begins(progress: Progress) -> Callable[[str, int, int, int], Callable[[Sample], None]]:
    def begin(name: str, concurrency: int, repeat: int, number: int) -> Callable[[Sample], None]:
        turn = "warm-up" if repeat < 0 else f"{concurrency} streams, turn {repeat + 1}"
        task = progress.add_task(f"{name}: {turn}", total=number)
        return lambda _: progress.advance(task)

    return begin


def _show(
    cells: Sequence[Cell],
    compared: Sequence[Ratio],
    written: Mapping[str, Any],
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    summed = lines(cells)
    sections = [rates(summed), times(summed), *([comparison(compared)] if compared else [])]
    print("\n\n".join(sections))
    if json_file is not None:
        json_file.write_text(json.dumps(written, indent=1), encoding="utf-8")
    if html_file is not None:
        html_file.write_text(page(written, summed, compared), encoding="utf-8")


def _judge(cells: Sequence[Cell]) -> None:
    """Raises CommandFailed when a request was not answered to its end."""
    errors = [(cell.target, sample.error) for cell in cells for sample in cell.samples if sample.error]
    if errors:
        name, error = errors[0]
        raise CommandFailed(f"{len(errors)} requests failed; the first, to {name}: {error}")
