"""Lines of a run by hand-made metrics, and tables of results."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator import tables
from orchestrator.views.lines import LinesView
from tests.orchestrator.views.story import metrics, status_of


@pytest.fixture
def shown() -> tuple[LinesView, io.StringIO]:
    """A view whose every step is due, and what it prints on a terminal of 80 columns."""
    output = io.StringIO()
    return LinesView(Console(file=output, width=80), progress_seconds=0.0), output


def test_the_rate_is_that_since_the_line_before(shown: tuple[LinesView, io.StringIO]) -> None:
    terminal, output = shown
    terminal.progress(metrics(10, 100.0), 100)
    terminal.progress(metrics(20, 105.0, rate=9999.0), 100)  # 1,000 samples in 5 s; 8,000 are left
    first, second = output.getvalue().splitlines()
    assert "1000 samples/s" in first
    assert first.endswith("0:09 left")
    assert "200 samples/s" in second
    assert second.endswith("0:40 left")


def test_the_first_line_of_an_attempt_tells_the_rate_of_its_step(shown: tuple[LinesView, io.StringIO]) -> None:
    terminal, output = shown
    terminal.progress(metrics(20, 100.0), 100)
    terminal.progress(metrics(10, 160.0, attempt=2, rate=500.0), 100)
    assert "500 samples/s" in output.getvalue().splitlines()[1]


def test_a_step_is_shown_once(shown: tuple[LinesView, io.StringIO]) -> None:
    terminal, output = shown
    terminal.progress(metrics(100, 100.0), 100)
    terminal.progress(metrics(100, 100.0), 100)
    assert len(output.getvalue().splitlines()) == 1


def test_a_table_of_results_fits_80_columns_and_breaks_no_score() -> None:
    scores = {"R@10": 0.3, "nDCG@10": 0.2, "mean_per_class_recall": 0.1}
    result = {
        "step": 1_000_000,
        "evaluation": "unseen-characters",
        "scores": scores,
        "main": "nDCG@10",
        "chance": 0.0045,
        "samples": 1025,
        "skipped": 0,
    }
    status = status_of(evaluations=[result])
    output = io.StringIO()
    LinesView(Console(file=output, width=80)).results(status, "job: succeeded after 1000000 steps")
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    words = [line.split() for line in lines if line.strip()]
    assert ["1000000", "nDCG@10", "0.2000", "0.0045", "1025"] in [[row[0], *row[2:]] for row in words]
    assert ["mean_per_class_recall", "0.1000"] in [row[-2:] for row in words]
    assert ["R@10", "0.3000"] in [row[-2:] for row in words]


def test_a_status_tells_name_and_state_once_and_the_kinds_of_failures() -> None:
    result = {"step": 9, "evaluation": "e", "scores": {"acc@1": 0.5}, "main": "acc@1", "chance": 0.1,
              "samples": 9, "skipped": 0}  # fmt: skip
    failures = [
        {"attempt": 1, "step": 3, "kind": "worker_lost", "cause": "rank 1: it died"},
        {"attempt": 2, "step": 3, "kind": None, "cause": "as older versions tell it"},
    ]
    output = io.StringIO()
    console = Console(file=output, width=100)
    answer = status_of(state="interrupted", failures=failures, evaluations=[result])
    console.print(tables.status_table(answer))
    tables.show_results(console, answer, "evaluations")
    assert output.getvalue().count("interrupted") == 1
    assert "attempt 1 at step 3 (worker_lost): rank 1: it died" in output.getvalue()
    assert "attempt 2 at step 3: as older versions tell it" in output.getvalue()
