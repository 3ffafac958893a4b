"""`vllama bench`: measures targets in turn, and shows throughput and latency against concurrency."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vllama_benchmarks.bench import flags, specification
from vllama_benchmarks.bench.access import Access
from vllama_benchmarks.bench.command_target import CommandTarget
from vllama_benchmarks.bench.comparison import DOORS, VLLM, Comparison, opened
from vllama_benchmarks.bench.page import page
from vllama_benchmarks.bench.plan import Plan, run
from vllama_benchmarks.bench.record import record
from vllama_benchmarks.bench.summary import lines, ratios
from vllama_benchmarks.bench.tables import comparison as ratio_table
from vllama_benchmarks.bench.tables import rates, times
from vllama_benchmarks.bench.workload import Workload, length, read_trace
from vllama_benchmarks.stoppable import stoppable
from vllama_clients.cli.address import api_key, http_address
from vllama_clients.cli.failure import CommandFailed
from vllama_clients.cli.long_help import HelpAll  # noqa: TC001 - typer reads the annotations
from vllama_clients.cli.tls import authority

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from vllama_benchmarks.bench.cell import Cell
    from vllama_benchmarks.bench.sample import Sample
    from vllama_benchmarks.bench.watch import Watch

ALL_DOORS = ",".join(DOORS)


def command(
    context: typer.Context,
    preset: flags.PresetArgument = None,
    target: flags.Targets = None,
    model: flags.Model = "smollm2:135m",
    concurrency: flags.Concurrency = "1,5,10,20,50",
    prompt_tokens: flags.PromptTokens = "64",
    max_tokens: flags.MaxTokens = "128",
    trace: flags.Trace = None,
    requests: flags.Requests = None,
    each: flags.Each = 3,
    interleave: flags.Interleaved = False,
    repeats: flags.Repeats = 3,
    warm_up: flags.WarmUp = 2,
    timeout_seconds: flags.TimeoutSeconds = 600,
    seed: flags.Seed = 0,
    watch: flags.Watches = None,
    json_file: flags.JsonFile = None,
    engine: flags.Engine = "vllm",
    bare: flags.Bare = "",
    doors: flags.Doors = ALL_DOORS,
    engine_arg: flags.EngineArguments = None,
    serve_arg: flags.ServeArguments = None,
    vllm_arg: flags.VllmArguments = None,
    samples: flags.Samples = True,
    html_file: flags.HtmlFile = None,
    help_all: HelpAll = False,
) -> None:
    """Measures servers in turn: TTFT, time per token, throughput, errors.

    The first target is what the others are compared with. Example:
    vllama bench --target a=ollama:http://127.0.0.1:11434 --target b=grpc:127.0.0.1:50051
    """
    chosen = target or ([] if preset else [f"server=ollama:{http_address(context.obj)}"])
    access = Access(api_key(context.obj), authority(context.obj))
    comparison = None
    try:
        workload = Workload(length(prompt_tokens), length(max_tokens), read_trace(trace) if trace else ())
        streams = specification.concurrencies(concurrency)
        targets = specification.targets(chosen, model, access)
        if interleave and streams != [1]:
            raise ValueError("--interleave takes turns with every request: give --concurrency 1")
        plan = Plan(
            targets,
            workload,
            streams,
            requests,
            repeats,
            warm_up,
            timeout_seconds,
            seed,
            each,
            is_interleaved=interleave,
        )
        if preset:
            chosen_doors = _doors(doors, targets)
            comparison = Comparison(
                model, engine, bare, engine_arg or [], chosen_doors, serve_arg or [], vllm_arg or []
            )
        specification.watches(watch or [], [*targets, *(comparison.doors if comparison else ())])
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    measurement = Measurement(plan, model, access, watch or [], comparison)
    settings = {
        "model": model,
        "targets": chosen,
        "prompt_tokens": str(trace or prompt_tokens),
        "max_tokens": str(trace or max_tokens),
        "engine_args": engine_arg or [],
        "repeats": repeats,
        "seed": seed,
        "interleaved": interleave,
    }
    cells: list[Cell] = []
    try:
        uvloop.run(stoppable(_measured(measurement, settings, cells)))
    finally:
        # A stopped measurement keeps the turns that are complete.
        if cells:
            _report(cells, settings, comparison, json_file, html_file, samples=samples)
    _judge(cells)


@dataclass(frozen=True, slots=True)
class Measurement:
    """The settings of one command line."""

    plan: Plan
    """The plan, with the given targets."""
    model: str
    """The model's name."""
    access: Access
    """API key and TLS of the targets."""
    watches: Sequence[str]
    """Processes to watch, as specification.py reads them."""
    comparison: Comparison | None
    """Doors to start, measured before the given targets."""


def _doors(text: str, targets: Collection[str]) -> list[str]:
    """Reads the names of doors. ValueError for an unknown one, or for one with the name of a given target."""
    doors = text.split(",")
    for door in doors:
        if door not in DOORS:
            raise ValueError(f"{door!r} is no door: choose among {', '.join(DOORS)}")
        if door in targets:
            raise ValueError(f"two targets are called {door!r}: give the other one than the door another name")
    return doors


async def _measured(measurement: Measurement, settings: dict[str, Any], cells: list[Cell]) -> None:
    """Starts the doors and measures; adds the cells to `cells` as they are measured."""
    async with AsyncExitStack() as stack:
        plan, watches = measurement.plan, list(measurement.watches)
        if measurement.comparison is not None:
            doors = await stack.enter_async_context(opened(measurement.comparison, _say))
            started = specification.targets(doors.targets, measurement.model, measurement.access)
            # By name: their addresses are of this one measurement only.
            settings["targets"] = [*started, *settings["targets"]]
            plan = replace(plan, targets={**started, **plan.targets})
            watches[:0] = doors.watches
        await _measure(plan, specification.watches(watches, list(plan.targets)), cells)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _measure(plan: Plan, watches: Mapping[str, Watch], cells: list[Cell]) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    async with AsyncExitStack() as stack:
        for target in plan.targets.values():
            if isinstance(target, CommandTarget):
                stack.push_async_callback(target.close)
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            async for cell in run(plan, watches, _begins(progress)):
                cells.append(cell)
                if not console.is_terminal:
                    # Without a terminal there are no bars: a line for each turn shows the progress.
                    _say(f"{_turn(cell.target, cell.concurrency, cell.repeat)}: {cell.tokens_per_second:,.1f} tokens/s")


def _begins(progress: Progress) -> Callable[[str, int, int, int], Callable[[Sample], None]]:
    def begin(name: str, concurrency: int, repeat: int, number: int) -> Callable[[Sample], None]:
        task = progress.add_task(_turn(name, concurrency, repeat), total=number)
        return lambda _: progress.advance(task)

    return begin


def _turn(name: str, concurrency: int, repeat: int) -> str:
    if repeat < 0:
        return f"{name}: warm-up"
    return f"{name}: {concurrency} stream{'s' if concurrency > 1 else ''}, turn {repeat + 1}"


def _report(
    cells: Sequence[Cell],
    settings: Mapping[str, Any],
    comparison: Comparison | None,
    json_file: Path | None,
    html_file: Path | None,
    *,
    samples: bool,
) -> None:
    """Shows the result on the terminal and writes the files."""
    summed, compared = lines(cells), ratios(cells, [VLLM] if comparison else [])
    sections = [rates(summed), times(summed), *([ratio_table(compared)] if compared else [])]
    print("\n\n".join(sections))
    written = record(cells, settings, compared, samples=samples)
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
