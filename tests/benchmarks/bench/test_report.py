"""The report: tables, charts, page and record."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from vllama_benchmarks.bench.cell import Cell
from vllama_benchmarks.bench.chart import Series, ceiling, line_chart
from vllama_benchmarks.bench.page import page
from vllama_benchmarks.bench.record import record
from vllama_benchmarks.bench.sample import Sample
from vllama_benchmarks.bench.summary import lines, ratios
from vllama_benchmarks.bench.tables import comparison, rates, times

CELLS = [
    Cell(target, streams, turn, 2.0, [Sample(1.0, 0.25, 100, 10)] * 4, 0.004 if target == "a" else None, 2**27)
    for streams in (1, 10)
    for turn in (0, 1)
    for target in ("a", "<b>")
]


def test_rates() -> None:
    """Throughput and the cost of a token stand in the target's line; what was not watched is a dash."""
    table = rates(lines(CELLS)).splitlines()
    assert table[1].split() == ["a", "1", "8", "0", "200.0", "2.00", "10", "100", "10.0", "µs", "128", "MiB"]
    assert table[2].split()[:2] == ["<b>", "1"]
    assert table[2].split()[8] == "-"


def test_rates_without_a_watch() -> None:
    """Columns without a value are left out."""
    assert "CPU/TOKEN" not in rates(lines([cell for cell in CELLS if cell.target != "a"]))


def test_times() -> None:
    """Milliseconds and seconds, three percentiles each."""
    assert times(lines(CELLS)).splitlines()[1].split()[2:] == [*["250.0"] * 3, *["7.58"] * 3, *["1.00"] * 3]


def test_comparison() -> None:
    """The ratio, its turns, and the difference of the first token."""
    assert comparison(ratios(CELLS)).splitlines()[1].split() == [
        *("<b>", "/", "a", "1", "1.000", "1.000", "1.000", "+0.0", "+0.0")
    ]


@pytest.mark.parametrize(("value", "top"), [(0, 1), (0.3, 0.3), (1, 1), (1.2, 1.5), (2.4, 2.5), (512, 600)])
def test_ceiling(value: float, top: float) -> None:
    """Axes end at round numbers."""
    assert ceiling(value) == pytest.approx(top)


def test_a_chart_is_well_formed() -> None:
    """Every value is a dot within the picture, in its series' colour, and gaps are left out."""
    svg = ElementTree.fromstring(
        line_chart("T & t", "n", ["1", "5", "10"], [Series("<a>", [1.0, None, 3.0]), Series("b", [2.0, 2.0, 2.0])])
    )
    dots = svg.findall("circle")
    assert len(dots) == 5
    assert all(0 < float(dot.get("cx", "0")) < 560 and 0 < float(dot.get("cy", "0")) < 300 for dot in dots)
    assert len({dot.get("fill") for dot in dots}) == 2


class Links(HTMLParser):
    """Collects what a page would load, and its table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keeps tags and links."""
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]


def test_large_numbers_stand_in_full() -> None:
    """An axis shows no exponents."""
    svg = line_chart("T", "n", ["1"], [Series("a", [14_000.0])])
    assert ">15,000</text>" in svg
    assert "<title>a: 14,000</title>" in svg
    assert "e+" not in svg


def test_settings_that_say_nothing_are_left_out() -> None:
    """An empty list of arguments is no fact."""
    written = page(record(CELLS, {"engine_args": [], "seed": 0}, ratios(CELLS)), lines(CELLS), ratios(CELLS))
    assert "Engine args" not in written
    assert "<dt>Seed</dt><dd>0</dd>" in written


def test_the_page_stands_alone() -> None:
    """Nothing is loaded from elsewhere, charts and tables are there, and names are escaped."""
    links = Links()
    links.feed(page(record(CELLS, {"model": "<m>"}, ratios(CELLS)), lines(CELLS), ratios(CELLS)))
    assert links.loaded == []
    assert links.tags.count("svg") == 6
    assert links.tags.count("table") == 2
    assert "b" not in links.tags
    assert "m" not in links.tags


def test_the_record_is_json() -> None:
    """Settings, machine, versions and every sample can be read back."""
    read = json.loads(json.dumps(record(CELLS, {"model": "m"}, ratios(CELLS))))
    assert read["settings"] == {"model": "m"}
    assert read["machine"]["cores"] >= 1
    assert "vllama-serve" in read["versions"]
    assert len(read["cells"]) == 8
    assert read["cells"][0]["samples"][0]["tokens"] == 100
    assert read["ratios"][0]["median_throughput"] == 1.0
