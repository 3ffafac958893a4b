import pytest

from vllama_benchmarks.simulate.grid import Cell, Results
from vllama_benchmarks.simulate.outcome import Score
from vllama_benchmarks.simulate.tables import by_workload, details, goals, markdown, summary

SUBJECT = "expected-completion"


def score(ttft: float, makespan: float) -> Score:
    """Makes a score whose other numbers are easy to recognise."""
    return Score(0.025, ttft, 0.0123, makespan, 0.5, 1.25)


@pytest.fixture
def results() -> Results:
    """Two cells: the policy wins one and loses one."""
    return {
        Cell("chats", 8, 4): {
            SUBJECT: score(0.050, 10.0),
            "least-request": score(0.100, 10.0),
            "oracle": score(0.040, 10.0),
        },
        Cell("uniform", 8, 4): {
            SUBJECT: score(0.120, 10.0),
            "least-request": score(0.100, 10.0),
            "oracle": score(0.100, 10.0),
        },
    }


def test_the_summary_counts_and_averages(results: Results) -> None:
    """The mean of a half and 1.2 is 0.775; one of four comparisons is behind."""
    row = summary(results).rows[0]
    assert row[0] == SUBJECT
    assert row[1] == "0.775"
    assert row[-1] == "1"


def test_workloads_are_told_apart(results: Results) -> None:
    """A gain in one and a loss in the other do not hide each other."""
    table = by_workload(results)
    assert table.header == ("placement", "chats", "uniform")
    assert table.rows[0] == (SUBJECT, "0.50 / 1.00", "1.20 / 1.00")


def test_losing_cells_are_published(results: Results) -> None:
    """The cell, the best baseline, and by how much."""
    losing, short = goals(results, SUBJECT)
    assert losing.rows == (("uniform 8x4", "p99 TTFT", "least-request", "0.100", "0.120", "1.20"),)
    # 50 of the 60 ms that the oracle wins in chats are more than four fifths.
    assert short.rows == ()


def test_every_cell_is_listed_in_readable_units(results: Results) -> None:
    """Milliseconds and per cent."""
    assert details(results).rows[0] == ("chats 8x4", SUBJECT, "25", "50", "12.3", "10.00", "50.0", "1.25")


def test_markdown_has_a_heading_and_a_table_for_each(results: Results) -> None:
    """Renders anywhere."""
    text = markdown([summary(results)])
    assert text.startswith("## All 2 cells\n\n")
    assert "\n| --- | ---: |" in text
