import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vllama_benchmarks.simulate.__main__ import main

TINY = ["--workloads", "uniform", "chats", "--concurrency", "4", "--workers", "2", "--seeds", "1"]


def test_prints_the_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    """Every contender has a row; progress goes to the other stream."""
    assert main(TINY) == 0
    captured = capsys.readouterr()
    assert "| expected-completion |" in captured.out
    assert "| oracle |" in captured.out
    assert "uniform with 4 clients" in captured.err


def test_writes_tables_and_a_page_with_charts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One command makes both; each chart is well-formed and the page loads nothing from elsewhere."""
    assert main([*TINY, "--report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    charts = ["<svg" + part.split("</svg>")[0] + "</svg>" for part in page.split("<svg")[1:]]
    assert len(charts) >= 6
    assert all(ElementTree.fromstring(chart).tag.endswith("svg") for chart in charts)
    assert "<script" not in page
    assert "| chats 4x2 | expected-completion |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    picture = ElementTree.parse(tmp_path / "comparison.svg").getroot()
    assert len(picture.findall("{*}svg")) == 4
    assert capsys.readouterr().out


def test_an_interrupted_report_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a column came to is kept beside the report and not computed again."""
    assert main([*TINY, "--report", str(tmp_path)]) == 0
    first = (tmp_path / "report.md").read_text(encoding="utf-8")
    kept = tmp_path / "kept" / "chats-4.json"
    text = kept.read_text(encoding="utf-8")
    kept.write_text(re.sub(r'"ttft_p50_seconds": [\d.]+', '"ttft_p50_seconds": 7.777', text), encoding="utf-8")
    assert main([*TINY, "--report", str(tmp_path)]) == 0
    assert "| chats 4x2 | random | 7777 |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    kept.unlink()
    assert main([*TINY, "--report", str(tmp_path)]) == 0
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == first
    assert capsys.readouterr().out


def test_decisions_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each size of fleet."""
    assert main(["--decision-time"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "4", "16"]


def test_a_choice_of_policies_is_compared_with_counting(capsys: pytest.CaptureFixture[str]) -> None:
    """Least request stays in: it is what ratios refer to."""
    assert main([*TINY, "--policies", "round-robin"]) == 0
    out = capsys.readouterr().out
    assert "| round-robin |" in out
    assert "| least-request | 1.000 | 1.000 |" in out
    assert "| random |" not in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workers", "0"], "not a whole number of 1 or more"),
        (["--workloads", "nonsense"], "invalid choice"),
        (["--seeds", "many"], "not a whole number of 1 or more"),
    ],
)
def test_wrong_flags_are_refused_by_name(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and a line that names the flag."""
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert flags[0] in error
    assert words in error
