"""How training and its evaluations went: curves of one run, or of several laid over each other. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.bars import histogram, stacked_bar
from orchestrator.report.charts import Mark, Series, line_chart
from orchestrator.report.html import Html, join, tag
from orchestrator.report.record import RunRecord
from orchestrator.report.scale import duration, number
from orchestrator.report.story import Step, time_spent
from orchestrator.report.tables import data_table
from orchestrator.results import HEADINGS, failures, rows


@dataclass(frozen=True)
class Named:
    """A run, and what it is called in a legend."""

    label: str
    record: RunRecord


def training(runs: Sequence[Named]) -> Html:
    """Loss, rates, norms. Of a single run, attempts and failures are marked."""
    alone = runs[0].record if len(runs) == 1 else None
    marks = [] if alone is None else _marks(alone)
    floor = None if alone is None else _loss_floor(alone)
    return _side_by_side(
        line_chart("Loss", _lines(runs, lambda step: step.loss, again=True), marks=marks, level=floor),
        line_chart("Samples a second", _lines(runs, lambda step: step.samples_per_second), marks=marks, zero=True),
        line_chart("Learning rate", _lines(runs, lambda step: step.learning_rate), zero=True),
        line_chart(
            "Norm of the gradient", _lines(runs, lambda step: step.grad_norm), note="Before it is clipped.", zero=True
        ),
        line_chart("Logit scale", _lines(runs, lambda step: step.logit_scale)),
        line_chart(
            "Accuracy in the batch",
            [
                Series(_of(run, runs), _checks(run.record, lambda check: check.get("accuracy")), color)
                for color, run in enumerate(runs)
            ],
            note="Share of the queries whose positive beats all other candidates of the global batch.",
            zero=True,
        ),
    )


def evaluations(runs: Sequence[Named]) -> Html:
    """The main score of each evaluation over the checkpoints, and all scores."""
    names = list(dict.fromkeys(result["evaluation"] for run in runs for result in run.record.results))
    charts = [chart for name in names if (chart := _evaluation(name, runs)) is not None]
    tables = []
    for run in runs:
        found = rows(run.record.results)
        if found:
            caption = "All results" if len(runs) == 1 else f"All results of {run.label}"
            tables.append(data_table(HEADINGS, found, caption=caption))
        failed = failures(run.record.results)
        tables.append(tag("ul", [tag("li", line) for line in failed], class_="faults") if failed else Html())
    if not names:
        return tag("p", "No evaluation has a result yet.", class_="note")
    return join([_side_by_side(*charts), *tables])


def time(runs: Sequence[Named]) -> Html:
    """What a step takes, and what the whole time went into."""
    charts = []
    for run in runs:
        record = run.record
        spent = time_spent(record.attempts, record.steps, record.superseded, record.events, record.ended)
        parts = {
            "computing": spent.computing,
            "waiting for data": spent.data_wait,
            "starting attempts": spent.starting,
            "steps done again": spent.again,
            "saving, and what else stops training": spent.saving,
            "between attempts": spent.between,
            "evaluating after training": spent.evaluating,
        }
        title = "Where the time went" + ("" if len(runs) == 1 else f": {run.label}")
        note = "" if record.steps else "No step is done yet."
        charts.append(stacked_bar(title, [(name, size, duration(size)) for name, size in parts.items()], note))
        phases = _phases(record.steps)
        if phases:
            charts.append(_steps_bar(phases, "" if len(runs) == 1 else f": {run.label}"))
    if len(runs) == 1:
        steps = runs[0].record.steps
        split = [
            Series("the whole step", [(step.step, step.seconds) for step in steps], 0),
            Series("of it, waiting for data", [(step.step, step.wait_seconds) for step in steps], 1),
        ]
        charts.insert(0, line_chart("Seconds a step", split, zero=True))
    else:
        lines = _lines(runs, lambda step: step.seconds)
        waits = _lines(runs, lambda step: step.wait_seconds)
        charts.insert(0, line_chart("Seconds a step", lines, zero=True))
        charts.insert(1, line_chart("Of it, waiting for data", waits, zero=True))
    return _side_by_side(*charts)


_PHASES = {
    "data": "waiting for data",
    "forward": "forward",
    "gather": "gathering, and the loss",
    "backward": "backward",
    "update": "update",
    "save": "metrics and checkpoints",
}
"""Phases of a step as they are called here."""


def _phases(steps: Sequence[Step]) -> dict[str, float]:
    """Seconds of each phase over all steps; empty where no step has any."""
    found = {phase: sum(step.phases.get(phase, 0.0) for step in steps) for phase in _PHASES}
    return found if any(found.values()) else {}


def _steps_bar(phases: dict[str, float], of: str) -> Html:
    return stacked_bar(
        f"What steps spend their time on{of}",
        [(name, phases[phase], duration(phases[phase])) for phase, name in _PHASES.items()],
        "Of rank 0, by the host's clock: what a GPU is still busy with counts where the host next waits for it, in "
        "gathering and at the end of the update.",
    )


def health(runs: Sequence[Named]) -> Html:
    """What the checks of training say of the features."""
    charts = [
        line_chart(
            "Effective rank",
            _by_side(runs, "effective_rank"),
            note="How many dimensions the features of each side make use of (Roy and Vetterli 2007). More is better; "
            "1 is a collapsed side.",
            zero=True,
        ),
        line_chart(
            "Alignment",
            [
                Series(_of(run, runs), _checks(run.record, lambda check: check.get("alignment")), color)
                for color, run in enumerate(runs)
            ],
            note="Mean squared distance of positives, 0…4. Less is better.",
        ),
        line_chart(
            "Uniformity",
            _by_side(runs, "uniformity"),
            note="How evenly each side covers the sphere, about -4…0 (Wang and Isola 2020). Less is better.",
        ),
        line_chart(
            "Mean cosine",
            _by_side(runs, "mean_cosine"),
            note="Of two different rows of a side; near 1 it is collapsed.",
        ),
    ]
    return _side_by_side(*charts)


def similarity_histograms(record: RunRecord) -> list[Html]:
    """Cosines of positives and negatives as `health` evaluations measured them: at the first checkpoint and the
    newest."""
    charts = []
    names = dict.fromkeys(result["evaluation"] for result in record.results if result.get("histograms"))
    for name in names:
        found = [r for r in record.results if r["evaluation"] == name and r.get("histograms")]
        for result in found if len(found) < 3 else [found[0], found[-1]]:
            shares = result["histograms"]["shares"]
            charts.append(
                histogram(
                    f"Similarities at step {result['step']} ({name})",
                    result["histograms"]["bins"],
                    [(what, values, color) for color, (what, values) in enumerate(shares.items())],
                    "Shares of the cosines of pairs that belong together, and of those that do not.",
                )
            )
    return charts


def _side_by_side(*charts: Html) -> Html:
    return tag("div", charts, class_="charts")


def _of(run: Named, runs: Sequence[Named]) -> str:
    return "" if len(runs) == 1 else run.label


def _lines(runs: Sequence[Named], value: Callable[[Step], float | None], *, again: bool = False) -> list[Series]:
    """A line a run. again: with the steps that were done again, faint, where there is one run."""
    lines = [
        Series(_of(run, runs), [(step.step, value(step)) for step in run.record.steps], color)
        for color, run in enumerate(runs)
    ]
    if again and len(runs) == 1 and runs[0].record.superseded:
        steps = sorted(runs[0].record.superseded, key=lambda step: (step.step, step.attempt))
        once = {step.step: (step.step, value(step)) for step in steps}
        lines = [Series("counts", lines[0].points, 0), Series("was done again", list(once.values()), 1, faint=True)]
    return lines


def _marks(record: RunRecord) -> list[Mark]:
    marks = []
    for attempt in record.attempts:
        workers = f"{attempt.world_size} worker{'s' if attempt.world_size != 1 else ''}"
        marks.append(
            Mark(
                attempt.first_step,
                "attempt",
                f"attempt {attempt.number} begins at step {attempt.first_step}, {workers}",
            )
        )
        if attempt.end in ("failed", "cut off"):
            words = f"attempt {attempt.number} {attempt.end} at step {attempt.last_step}: {attempt.cause}"
            marks.append(Mark(attempt.last_step, "failure", words))
        elif attempt.end == "saved":
            words = f"attempt {attempt.number} saved step {attempt.last_step} and ended: {attempt.cause}"
            marks.append(Mark(attempt.last_step, "saved", words))
    return marks


def _loss_floor(record: RunRecord) -> tuple[str, float] | None:
    floors = [check["loss_floor"] for step in record.steps if (check := step.health) and check.get("loss_floor")]
    return ("floor that duplicates set", sum(floors) / len(floors)) if floors else None


def _checks(record: RunRecord, value: Callable[[dict[str, Any]], float | None]) -> list[tuple[float, float | None]]:
    return [(step.step, value(step.health)) for step in record.steps if step.health]


def _by_side(runs: Sequence[Named], name: str) -> list[Series]:
    """A line for each run and side."""
    lines: list[Series] = []
    for run in runs:
        sides: dict[str, float] = next((step.health.get(name, {}) for step in run.record.steps if step.health), {})
        for side in sides:
            label = side if len(runs) == 1 else f"{run.label}: {side}"
            points = [(step.step, step.health.get(name, {}).get(side)) for step in run.record.steps if step.health]
            lines.append(Series(label, points, len(lines)))
    return lines


def _evaluation(name: str, runs: Sequence[Named]) -> Html | None:
    series, main, level, samples = [], "", None, 0
    for color, run in enumerate(runs):
        found = [r for r in run.record.results if r["evaluation"] == name and "failed" not in r]
        if not found:
            continue
        newest = found[-1]
        main, samples = newest["main"], newest["samples"]
        level = ("chance", newest["chance"]) if math.isfinite(newest["chance"]) else level
        found = [result for result in found if main in result["scores"]]
        series.append(
            Series(
                _of(run, runs),
                [(result["step"], result["scores"][main]) for result in found],
                color,
                intervals=[_interval(result.get("interval")) for result in found],
            )
        )
    if not series:
        return None
    note = f"{main} on {number(samples)} samples; bars are 95 % intervals."
    return line_chart(f"{name}: {main}", series, level=level, note=note)


def _interval(ends: Sequence[float] | None) -> tuple[float, float] | None:
    return (ends[0], ends[1]) if ends is not None and all(map(math.isfinite, ends)) else None
