"""The metrics of the balancer and its workers, read from the source that declares them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*(ROOT / "balancer").rglob("*.py"), *(ROOT / "server").rglob("*.py")]
DECLARATION = re.compile(r"\b(Counter|Gauge|Histogram|Enum)(?:MetricFamily)?\(\s*\"(vllama_[a-z_]+)\"")
SUFFIXES = {
    "Counter": ("_total",),
    "Gauge": ("",),
    "Enum": ("",),
    "Histogram": ("_bucket", "_sum", "_count"),
}


def exposed() -> frozenset[str]:
    """Returns the names of all series, suffixes included."""
    return frozenset(
        name.removesuffix("_total") + suffix
        for path in SOURCES
        for kind, name in DECLARATION.findall(path.read_text(encoding="utf-8"))
        for suffix in SUFFIXES[kind]
    )


def used(expression: str) -> set[str]:
    """Returns the vllama series in an expression."""
    return set(re.findall(r"\bvllama_[a-z_]+", re.sub(r"\{[^}]*\}|\"[^\"]*\"|by \([^)]*\)", "", expression)))
