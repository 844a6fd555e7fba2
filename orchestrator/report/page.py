"""The page: sections in order, with our style and script in it and nothing from elsewhere. Pure.

A Content-Security-Policy allows that style and that script, by hash, and pictures that are in the page: whatever a
caption holds, a browser runs nothing else and fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from orchestrator.report import curves, facts, looks
from orchestrator.report.curves import Named
from orchestrator.report.facts import under
from orchestrator.report.html import Html, join, tag, verbatim
from orchestrator.report.record import RunRecord
from orchestrator.report.timeline import clock, timeline

if TYPE_CHECKING:
    from orchestrator.report.look import Look


@dataclass(frozen=True)
class Reported:
    """A run as it is reported."""

    record: RunRecord
    look: Look | None
    """What its model makes of samples."""
    look_missing: str
    """Why there is none."""


def page(runs: Sequence[Reported]) -> str:
    """The whole document."""
    named = [Named(label, run.record) for label, run in zip(_labels(runs), runs, strict=True)]
    title = named[0].label if len(runs) == 1 else f"{len(runs)} runs: " + ", ".join(run.label for run in named)
    sections = [
        ("Summary", facts.summary(named)),
        ("Training", curves.training(named)),
        ("Evaluations", curves.evaluations(named)),
        ("Time", curves.time(named)),
        ("Health", _health(named, runs)),
        ("Neighbours", _per_run(named, runs, looks.neighbours)),
        ("Map", _per_run(named, runs, looks.embedding_map)),
        *_hard_negatives(named, runs),
        ("Masked samples", join([under(run, named, facts.masked(run.record)) for run in named])),
        ("Timeline", join([under(run, named, timeline(run.record)) for run in named])),
        ("Spec and plan", facts.specs(named)),
    ]
    style, script = _resource("report.css"), _resource("report.js")
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{title} – Tandem report"),
        tag("style", verbatim(style)),
    )
    body = tag(
        "body",
        tag("a", "To the contents", href="#contents", class_="skip"),
        tag("header", tag("h1", title), [facts.state(run) for run in named] if len(runs) == 1 else None),
        tag(
            "nav",
            tag("ul", [tag("li", tag("a", name, href=f"#{_id(name)}")) for name, _ in sections]),
            aria_label="Sections",
        ),
        tag("main", [_section(name, content) for name, content in sections], id="contents"),
        tag(
            "footer",
            f"Made by Tandem, {clock(max(run.record.made for run in runs))}.",
        ),
        tag("div", id="tip", hidden=True),
        tag("div", id="said", aria_live="polite", class_="unseen"),
        tag("script", verbatim(script)),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _section(name: str, content: Html) -> Html:
    return tag(
        "section", tag("h2", name, id=f"{_id(name)}-title"), content, id=_id(name), aria_labelledby=f"{_id(name)}-title"
    )


def _id(name: str) -> str:
    return name.lower().replace(" ", "-")


def _labels(runs: Sequence[Reported]) -> list[str]:
    """Names of the runs; where two are equal, with as many of the folders above them as tell them apart."""
    parts = [run.record.uri.split("/") for run in runs]
    for count in range(1, max(map(len, parts))):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [run.record.uri for run in runs]


# --- sections of several parts -------------------------------------------------------------------------


def _health(named: Sequence[Named], runs: Sequence[Reported]) -> Html:
    parts = [curves.health(named)]
    for label, run in zip(named, runs, strict=True):
        charts = curves.similarity_histograms(run.record)
        if not charts and run.look is not None:
            charts = looks.similarities(run.look)
        parts.append(under(label, named, tag("div", charts, class_="charts")) if charts else Html())
    return join(parts)


def _per_run(named: Sequence[Named], runs: Sequence[Reported], show: Callable[[Look], Html]) -> Html:
    """What needs the model, of each run; or why it is not there."""
    return join(
        [
            under(label, named, show(run.look) if run.look else tag("p", run.look_missing, class_="note"))
            for label, run in zip(named, runs, strict=True)
        ]
    )


def _hard_negatives(named: Sequence[Named], runs: Sequence[Reported]) -> list[tuple[str, Html]]:
    """No section where no run has any."""
    parts = []
    for label, run in zip(named, runs, strict=True):
        if run.look is not None and run.look.hard is not None:
            parts.append(under(label, named, looks.hard_negatives(run.look.hard)))
        elif run.look is not None and run.look.hard_missing:
            parts.append(under(label, named, tag("p", run.look.hard_missing, class_="note")))
    return [("Hard negatives", join(parts))] if parts else []


# --- what is in the page ------------------------------------------------------------------------------


def _resource(name: str) -> str:
    return (files("orchestrator.report") / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
