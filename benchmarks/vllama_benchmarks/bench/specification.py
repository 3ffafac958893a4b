"""Parses the targets and watches of the command line: "name=kind:address" and "name=pid"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_benchmarks.bench.command_target import CommandTarget
from vllama_benchmarks.bench.grpc_target import GrpcTarget
from vllama_benchmarks.bench.http_target import HttpTarget, OllamaDialect, OpenAiDialect
from vllama_benchmarks.bench.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_benchmarks.bench.access import Access
    from vllama_benchmarks.bench.target import Target

KINDS = ("ollama", "openai", "grpc", "grpcs", "command")
FORM = "write name=kind:address, the kind being " + ", ".join(KINDS)


def targets(texts: Sequence[str], model: str, access: Access) -> dict[str, Target]:
    """Returns the targets, in order. ValueError names the wrong one."""
    found: dict[str, Target] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        kind, colon, address = rest.partition(":")
        if not (equals and colon and name and address) or kind not in KINDS:
            raise ValueError(f"{text!r} is no target: {FORM}")
        if name in found:
            raise ValueError(f"two targets are called {name!r}; names must differ")
        found[name] = _target(kind, address, model, access)
    return found


def watches(texts: Sequence[str], names: Sequence[str]) -> dict[str, Watch]:
    """Returns the watches of targets' processes. ValueError names the wrong one."""
    found = {}
    for text in texts:
        name, _, pid = text.partition("=")
        if name not in names or not pid.isdecimal():
            raise ValueError(f"{text!r} is no watch: write name=pid, the name being a target's")
        found[name] = Watch(int(pid))
    return found


def concurrencies(text: str) -> list[int]:
    """Reads "1,5,10". ValueError for anything else."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"{text!r} is no list of numbers of streams: write 1,5,10")
    return found


def _target(kind: str, address: str, model: str, access: Access) -> Target:
    match kind:
        case "ollama":
            return HttpTarget(address, OllamaDialect(), model, access=access)
        case "openai":
            return HttpTarget(address, OpenAiDialect(), model, access=access)
        case "grpc":
            return GrpcTarget(address, model, api_key=access.api_key)
        case "grpcs":
            return GrpcTarget(address, model, api_key=access.api_key, tls=access.grpc_tls())
    return CommandTarget(address)
