"""The demo's table: one line per worker, and one for all of them."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_benchmarks.demo.load import ChatResult


def table(outcomes: Sequence[ChatResult], seconds: float) -> Table:
    """Builds the table; `seconds` is how long all of it took."""
    built = Table(title=f"{len(outcomes)} streams at once, {seconds:.1f} s")
    for name in ("worker", "streams", "complete", "TTFT median", "TTFT max", "tokens/s"):
        built.add_column(name, justify="left" if name == "worker" else "right")
    for worker in sorted({outcome.worker for outcome in outcomes}):
        built.add_row(*_row(worker, [outcome for outcome in outcomes if outcome.worker == worker], seconds))
    built.add_section()
    built.add_row(*_row("all", outcomes, seconds))
    return built


def _row(name: str, outcomes: Sequence[ChatResult], seconds: float) -> list[str]:
    ttfts = [outcome.ttft_seconds for outcome in outcomes if outcome.ttft_seconds is not None]
    tokens = sum(outcome.tokens for outcome in outcomes)
    return [
        name,
        str(len(outcomes)),
        str(sum(outcome.complete for outcome in outcomes)),
        f"{median(ttfts):.2f} s" if ttfts else "-",
        f"{max(ttfts):.2f} s" if ttfts else "-",
        f"{tokens / seconds:.1f}" if seconds else "-",
    ]
