"""The results of a run: main scores as checkpoints are compared by, and the table over the run.

A result is a file, one for each (checkpoint, evaluation): `workers.evaluate.result.Result`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from jobspecs.errors import NotFoundError
from jobspecs.evaluation import Evaluation, evaluation_hash
from orchestrator.due import Key, MainScore
from workers.run import RunDirectory
from workers.storage import Storage, join

Result = dict[str, Any]
"""As stored; of an evaluation that failed: `step`, `evaluation` and the cause in `failed`."""


def main_scores(storage: Storage, run: RunDirectory, evaluations: Sequence[Evaluation]) -> dict[Key, MainScore]:
    """Of all results that belong to `evaluations` as they now stand. Raises StorageError."""
    by_name = {evaluation.name: evaluation for evaluation in evaluations}
    found = {}
    for info in storage.list(join(run.uri, "evaluations")):
        match = re.fullmatch(r".*/step-(\d{8,})/(.+)\.json", info.uri)
        if match and (evaluation := by_name.get(match[2])) is not None:
            score = main_score_of(storage, run, int(match[1]), evaluation)
            if score is not None:
                found[int(match[1]), evaluation.name] = score
    return found


def main_score_of(storage: Storage, run: RunDirectory, step: int, evaluation: Evaluation) -> MainScore | None:
    """The main score of a checkpoint; None where there is no result of this evaluation as it now stands. One that is
    damaged is none: it is done again.

    Raises StorageError.
    """
    try:
        result = json.loads(storage.read(run.evaluation(step, evaluation.name)))
        if result["spec_hash"] != evaluation_hash(evaluation):
            return None
        # Results of older versions have scores of one direction alone.
        name = result["main"]
        return MainScore(name, float(result["scores"][name]), result.get("higher_is_better", True))
    except (NotFoundError, ValueError, KeyError, TypeError):
        return None


def samples_of(result: Result) -> str:
    """How many samples were scored, and what is to be known of it."""
    skipped = f", {result['skipped']} skipped" if result["skipped"] else ""
    searched = ", approximate search" if result.get("search") == "approximate" else ""
    return f"{result['samples']}{skipped}{searched}"


HEADINGS = ("step", "evaluation", "score", "value", "chance", "interval", "samples", "all scores")
"""Columns of the table."""


def rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """The table: a row for each result, by step and name; under `all scores` those that are not the main one."""
    return [_row(result) for result in results if "failed" not in result]


def failures(results: Sequence[Result]) -> list[str]:
    """A line for each evaluation that failed."""
    return [
        f"evaluation {result['evaluation']} of step {result['step']} failed: {result['failed']}"
        for result in results
        if "failed" in result
    ]


def as_markdown(results: Sequence[Result]) -> str:
    """The table, and what failed below it."""
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *rows(results)]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    failed = [f"- {line}" for line in failures(results)]
    return "\n".join([*table, *(["", *failed] if failed else [])])


def as_csv(results: Sequence[Result]) -> str:
    """All numbers in full: a column for each score that any evaluation has; a failed one has its cause in `failed`."""
    names = list(dict.fromkeys(name for result in results for name in result.get("scores", {})))
    plain = (
        "step",
        "evaluation",
        "kind",
        "main",
        "chance",
        "samples",
        "skipped",
        "seconds",
        "checkpoint",
        "failed",
        "search",
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*plain, "low", "high", *names])
    for result in results:
        low, high = result.get("interval") or ("", "")
        scores = result.get("scores", {})
        numbers = (scores.get(name, "") for name in names)
        writer.writerow([*(result.get(name, "") for name in plain), low, high, *numbers])
    return text.getvalue().rstrip("\n")


def _row(result: Result) -> tuple[str, ...]:
    main, scores = result["main"], result["scores"]
    interval = result.get("interval")
    return (
        str(result["step"]),
        result["evaluation"],
        main,
        f"{scores[main]:.4f}",
        f"{result['chance']:.4f}",
        f"{interval[0]:.4f}…{interval[1]:.4f}" if interval else "",
        samples_of(result),
        ", ".join(f"{name} {value:.4f}" for name, value in scores.items() if name != main),
    )
