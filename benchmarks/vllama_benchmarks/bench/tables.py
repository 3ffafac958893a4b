"""The result on a terminal: rates, times and ratios in plain columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_clients.cli.columns import columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllama_benchmarks.bench.summary import Line, Ratio

RATES = ("TARGET", "STREAMS", "REQUESTS", "ERRORS", "TOKENS/S", "REQUESTS/S", "TOKENS IN", "OUT")
COSTS = ("CPU/TOKEN", "MEMORY")
TIMES = ("TARGET", "STREAMS", "TTFT P50", "P90", "P99 ms", "TPOT P50", "P90", "P99 ms", "E2E P50", "P90", "P99 s")
RATIOS = ("TARGET / BASE", "STREAMS", "TOKENS/S", "EACH TURN", "TTFT DIFFERENCE, EACH TURN ms")


def rates(lines: Sequence[Line]) -> str:
    """Writes rates (medians of the turns), errors and mean lengths; costs where a process was watched."""
    is_watched = any(line.cpu_microseconds_per_token is not None for line in lines)
    rows = [(*_rates(line), *(_costs(line) if is_watched else ())) for line in _by_streams(lines)]
    return columns((*RATES, *(COSTS if is_watched else ())), rows)


def times(lines: Sequence[Line]) -> str:
    """Writes the percentiles of all requests."""
    return columns(TIMES, [_times(line) for line in _by_streams(lines)])


def comparison(ratios: Sequence[Ratio]) -> str:
    """Writes each target's throughput by that of the first, and by how much later its first token comes."""
    return columns(RATIOS, [_ratio(ratio) for ratio in ratios])


def _by_streams(lines: Sequence[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: line.concurrency)


def _rates(line: Line) -> list[str]:
    return [
        line.target,
        str(line.concurrency),
        str(line.requests),
        str(line.errors),
        f"{line.tokens_per_second:,.1f}",
        f"{line.requests_per_second:.2f}",
        f"{line.mean_prompt_tokens:.0f}",
        f"{line.mean_output_tokens:.0f}",
    ]


def _costs(line: Line) -> list[str]:
    cost, resident = line.cpu_microseconds_per_token, line.resident_bytes
    return ["-" if cost is None else f"{cost:.1f} µs", "-" if resident is None else f"{resident / 2**20:.0f} MiB"]


def _times(line: Line) -> list[str]:
    found = line.percentiles
    return [
        line.target,
        str(line.concurrency),
        *_scaled(found["ttft"], 1000, 1),
        *_scaled(found["tpot"], 1000, 2),
        *_scaled(found["e2e"], 1, 2),
    ]


def _scaled(percentiles: Mapping[int, float | None], scale: float, digits: int) -> list[str]:
    return ["-" if value is None else f"{value * scale:.{digits}f}" for value in percentiles.values()]


def _ratio(ratio: Ratio) -> list[str]:
    middle = ratio.median_throughput
    return [
        f"{ratio.target} / {ratio.base}",
        str(ratio.concurrency),
        "-" if middle is None else f"{middle:.3f}",
        " ".join(f"{value:.3f}" for value in ratio.throughput) or "-",
        " ".join(f"{value * 1000:+.1f}" for value in ratio.ttft) or "-",
    ]
