"""The table of results in each of its forms."""

from __future__ import annotations

import csv
import io

from rich.console import Console

from orchestrator.results import as_csv, as_markdown, failures
from orchestrator.tables import results_table

RESULTS = [
    {
        "evaluation": "digits", "kind": "zero_shot", "step": 100, "checkpoint": "file:///r/checkpoints/step-00000100",
        "seconds": 1.5, "main": "acc@1", "scores": {"acc@5": 1.0, "acc@1": 0.51234567}, "samples": 360, "skipped": 2,
        "chance": 0.1, "interval": [0.4, 0.6],
    },
    {
        "evaluation": "pairs", "kind": "retrieval", "step": 200, "checkpoint": "file:///r/checkpoints/step-00000200",
        "seconds": 1.5, "main": "mean_R@1", "scores": {"mean_R@1": 0.25}, "samples": 360, "skipped": 0, "chance": 0.01,
    },
    {"step": 200, "evaluation": "bad|worse", "failed": "its process died"},
]  # fmt: skip
FAILED = "evaluation bad|worse of step 200 failed: its process died"


def test_as_markdown() -> None:
    assert as_markdown(RESULTS).splitlines() == [
        "| step | evaluation | score | value | chance | interval | samples | all scores |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 100 | digits | acc@1 | 0.5123 | 0.1000 | 0.4000…0.6000 | 360, 2 skipped | acc@5 1.0000 |",
        "| 200 | pairs | mean_R@1 | 0.2500 | 0.0100 |  | 360 |  |",
        "",
        f"- {FAILED}",
    ]


def test_as_csv_with_all_digits() -> None:
    first, second, third = csv.DictReader(io.StringIO(as_csv(RESULTS)))
    assert (first["step"], first["acc@1"], first["low"], first["mean_R@1"]) == ("100", "0.51234567", "0.4", "")
    assert (second["mean_R@1"], second["failed"], second["high"]) == ("0.25", "", "")
    assert (third["evaluation"], third["failed"]) == ("bad|worse", "its process died")


def test_as_a_table() -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(results_table(RESULTS))
    lines = console.export_text().splitlines()
    assert any(line.split() == ["acc@5", "1.0000"] for line in lines)
    assert any(line.split() == ["200", "pairs", "mean_R@1", "0.2500", "0.0100", "360"] for line in lines)
    assert failures(RESULTS) == [FAILED]


def test_a_result_of_approximate_search_says_so() -> None:
    (_, _, line) = as_markdown([RESULTS[1] | {"search": "approximate"}]).splitlines()
    assert "| 360, approximate search |" in line
