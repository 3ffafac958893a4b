"""The flags of `vllama bench`: a type for each, with its help."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vllama_clients.cli.long_help import SELDOM


class Preset(Enum):
    """Ready-made sets of targets."""

    COMPARE = "compare"


PresetArgument = Annotated[
    Preset | None, typer.Argument(help="compare: start the model behind every door and measure them all.")
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        help="name=ollama:URL, name=openai:URL, name=grpc:HOST:PORT (grpcs: with TLS) or name=command:LINE; repeatable."
    ),
]
Model = Annotated[str, typer.Option(help="The model.")]

# What is sent, and how often.
Concurrency = Annotated[str, typer.Option(help="Streams at once, e.g. 1,5,10.")]
PromptTokens = Annotated[str, typer.Option(help="Prompt length: 128, 64-256 or lognormal:128:0.8.")]
MaxTokens = Annotated[str, typer.Option(help="Output length, likewise.")]
Trace = Annotated[
    Path | None, typer.Option(help='Lines of {"prompt", "max_tokens"} to send instead.', rich_help_panel=SELDOM)
]
Requests = Annotated[
    int | None, typer.Option(min=1, help="Requests at each concurrency, instead of --each.", rich_help_panel=SELDOM)
]
Each = Annotated[int, typer.Option(min=1, help="Requests of each stream; a single one sends those of two.")]
Interleaved = Annotated[
    bool,
    typer.Option(
        "--interleave",
        help="Take turns with every request, not every repeat; needs --concurrency 1.",
        rich_help_panel=SELDOM,
    ),
]
Repeats = Annotated[int, typer.Option(min=1, help="Times that the targets take turns.", rich_help_panel=SELDOM)]
WarmUp = Annotated[int, typer.Option(min=0, help="Requests to each target before measuring.", rich_help_panel=SELDOM)]
TimeoutSeconds = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Seconds for one request.", rich_help_panel=SELDOM)
]
Seed = Annotated[int, typer.Option(help="Seed of lengths and words.", rich_help_panel=SELDOM)]
Watches = Annotated[
    list[str] | None, typer.Option(help="name=PID: tell that process's CPU per token.", rich_help_panel=SELDOM)
]

# What `compare` starts.
Engine = Annotated[str, typer.Option(help="With compare: vllm, or fake for a simulation.", rich_help_panel=SELDOM)]
Bare = Annotated[
    str, typer.Option(help="With compare: another program that is the bare engine.", rich_help_panel=SELDOM)
]
Doors = Annotated[str, typer.Option(help="With compare: which doors.", rich_help_panel=SELDOM)]
EngineArguments = Annotated[
    list[str] | None, typer.Option(help="With compare: key=value for all engines.", rich_help_panel=SELDOM)
]
ServeArguments = Annotated[
    list[str] | None, typer.Option(help="With compare: flag for the balancer.", rich_help_panel=SELDOM)
]
VllmArguments = Annotated[
    list[str] | None, typer.Option(help="With compare: flag for vLLM's own server.", rich_help_panel=SELDOM)
]

# What is written.
Samples = Annotated[bool, typer.Option(help="Keep every request in the JSON file.", rich_help_panel=SELDOM)]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write every sample to this file.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="Write a page with charts to this file.")]
