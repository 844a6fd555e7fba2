"""Lines of a run by hand-made metrics."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.views.lines import LinesView
from tests.orchestrator.views.story import metrics


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
