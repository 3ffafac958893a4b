"""The result as one self-contained HTML page: facts, charts, numbers."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from vllama_benchmarks.bench.chart import Series, legend, line_chart

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vllama_benchmarks.bench.summary import Line, Ratio

STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1rem; }
svg { width: 100%; } svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
svg .title { font-weight: 600; font-size: 14px; } svg .grid { stroke: var(--line); }
.key { margin-right: 1.2rem; white-space: nowrap; }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .4em; }
table { border-collapse: collapse; } th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); }
th, td { white-space: nowrap; }
td { text-align: right; font-variant-numeric: tabular-nums; } td:first-child, th:first-child { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; } dd { margin: 0; }
.scroll { overflow-x: auto; }
"""
CHARTS: tuple[tuple[str, Callable[[Line], float | None]], ...] = (
    ("Throughput, tokens/s", lambda line: line.tokens_per_second),
    ("Time to first token, median, ms", lambda line: _milliseconds(line.percentiles["ttft"][50])),
    ("Time to first token, p99, ms", lambda line: _milliseconds(line.percentiles["ttft"][99])),
    ("Time per output token, median, ms", lambda line: _milliseconds(line.percentiles["tpot"][50])),
    ("End to end, median, s", lambda line: line.percentiles["e2e"][50]),
    ("CPU of the watched process per token, µs", lambda line: line.cpu_microseconds_per_token),
)
COLUMNS = ("target", "streams", "requests", "errors", "tokens/s", "requests/s", "TTFT p50 / p90 / p99 ms")
MORE_COLUMNS = ("TPOT p50 / p90 / p99 ms", "end to end p50 / p90 / p99 s", "prompt / output tokens", "µs CPU/token")


def page(record: Mapping[str, Any], lines: Sequence[Line], ratios: Sequence[Ratio]) -> str:
    names = list(dict.fromkeys(line.target for line in lines))
    ratios_part = f"<h2>Ratios, pair by pair</h2>{_ratios(ratios)}" if ratios else ""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>vllama bench</title><style>{STYLE}</style>
<h1>vllama bench</h1>
<dl>{_facts(record)}</dl>
<p>{legend(names)}</p>
<div class="charts">{"".join(_charts(lines, names))}</div>
<h2>Numbers</h2>{_numbers(lines)}
{ratios_part}
</html>
"""


def _facts(record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    facts = {
        "Date": record["date"],
        "Commit": record["commit"] or "not known",
        "Machine": f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB",
        "Versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        **{name.replace("_", " ").capitalize(): value for name, value in record["settings"].items()},
    }
    texts = {name: _words(value) for name, value in facts.items()}
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>" for name, words in texts.items() if words)


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _charts(lines: Sequence[Line], names: Sequence[str]) -> list[str]:
    concurrencies = sorted({line.concurrency for line in lines})
    found = {(line.target, line.concurrency): line for line in lines}
    charts = []
    for title, value_of in CHARTS:
        series = [
            Series(name, [value_of(found[name, n]) if (name, n) in found else None for n in concurrencies])
            for name in names
        ]
        if any(value is not None for one in series for value in one.values):
            charts.append(line_chart(title, "streams at once", [str(n) for n in concurrencies], series))
    return charts


def _numbers(lines: Sequence[Line]) -> str:
    rows = [
        (
            line.target,
            str(line.concurrency),
            str(line.requests),
            str(line.errors),
            f"{line.tokens_per_second:,.1f}",
            f"{line.requests_per_second:.2f}",
            _times(line.percentiles["ttft"], 1000),
            _times(line.percentiles["tpot"], 1000),
            _times(line.percentiles["e2e"], 1),
            f"{line.mean_prompt_tokens:.0f} / {line.mean_output_tokens:.0f}",
            "" if line.cpu_microseconds_per_token is None else f"{line.cpu_microseconds_per_token:.1f}",
        )
        for line in lines
    ]
    return _table((*COLUMNS, *MORE_COLUMNS), rows)


def _ratios(ratios: Sequence[Ratio]) -> str:
    rows = [
        (
            f"{ratio.target} / {ratio.base}",
            str(ratio.concurrency),
            "" if ratio.median_throughput is None else f"{ratio.median_throughput:.3f}",
            " ".join(f"{value:.3f}" for value in ratio.throughput),
            " ".join(f"{value * 1000:+.1f}" for value in ratio.ttft),
        )
        for ratio in ratios
    ]
    return _table(("targets", "streams", "tokens/s, median ratio", "each repeat", "TTFT difference, ms"), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _times(percentiles: Mapping[int, float | None], scale: float) -> str:
    return " / ".join("-" if value is None else f"{value * scale:.2f}" for value in percentiles.values())
