"""Tables of a plan, of a status and of results."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from orchestrator import tables
from orchestrator.prepare import prepare
from tests.orchestrator.conftest import digits_spec
from tests.orchestrator.views.story import status_of


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
    tables.show_results(Console(file=output, width=80), status, "job: succeeded after 1000000 steps")
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


def test_what_looks_like_markup_is_told_as_it_is() -> None:
    """A broken collective of gloo begins so; rich would take it for the end of a style that never began."""
    cause = "[/pytorch/third_party/gloo/pair.cc:534] Connection closed by peer"
    failure = {"attempt": 1, "step": 3, "kind": "worker_lost", "cause": cause}
    output = io.StringIO()
    console = Console(file=output, width=200)
    answer = status_of(failures=[failure], run_directory="file:///runs/[b]job", message=cause)
    console.print(tables.status_table(answer))
    tables.show_results(console, answer, "evaluations")
    assert output.getvalue().count(cause) == 2
    assert "file:///runs/[b]job" in output.getvalue()


def test_a_plan_tells_the_sizes_of_use_and_what_each_wastes(digits: Path, tmp_path: Path) -> None:
    def workers_of(*more: str) -> str:
        plan = prepare(digits_spec(digits, tmp_path, *more), only_plan=True).plan
        output = io.StringIO()
        Console(file=output, width=400).print(tables.plan_table(plan))
        (row,) = (line for line in output.getvalue().splitlines() if line.startswith("│ workers "))
        return row.split("│")[2].strip()

    of_use = "of use, with what only pads: 1, 2, 3 (12%), 4, 6 (12%), 8, 16"
    assert workers_of("cluster.workers=7") == f"7; {of_use}"
    assert workers_of("cluster.workers={min: 2, max: 5}") == f"2, 3, 4; {of_use}"
    assert "of use, with what only pads: 1, 2, 3 (<1%)," in workers_of("training.global_batch=1024", "data.lanes=1024")
