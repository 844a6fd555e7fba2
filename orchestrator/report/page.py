"""The page: sections in order, with our style and script in it and nothing from elsewhere. Pure.

A Content-Security-Policy allows that style and that script, by hash, and pictures that are in the page: whatever a
caption holds, a browser runs nothing else and fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from orchestrator.report import curves, looks
from orchestrator.report.charts import data_table
from orchestrator.report.curves import Named
from orchestrator.report.html import Html, join, tag, verbatim
from orchestrator.report.record import RunRecord
from orchestrator.report.scale import duration, number
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
        ("Summary", _summary(named)),
        ("Training", curves.training(named)),
        ("Evaluations", curves.evaluations(named)),
        ("Time", curves.time(named)),
        ("Health", _health(named, runs)),
        ("Neighbours", _per_run(named, runs, lambda look: looks.neighbours(look))),
        ("Map", _per_run(named, runs, looks.embedding_map)),
        *_hard_negatives(named, runs),
        ("Masked samples", join([_under(run, named, _masked(run.record)) for run in named])),
        ("Timeline", join([_under(run, named, timeline(run.record)) for run in named])),
        ("Spec and plan", _specs(named)),
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
        tag("header", tag("h1", title), [_state(run) for run in named] if len(runs) == 1 else None),
        tag("nav", tag("ul", [tag("li", tag("a", name, href=f"#{_id(name)}")) for name, _ in sections]), aria_label="Sections"),
        tag("main", [_section(name, content) for name, content in sections], id="contents"),
        tag("footer", f"Made {clock(max(run.record.made for run in runs))} by Tandem from the run director", "y." if len(runs) == 1 else "ies."),
        tag("div", id="tip", hidden=True),
        tag("div", id="said", aria_live="polite", class_="unseen"),
        tag("script", verbatim(script)),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _section(name: str, content: Html) -> Html:
    return tag("section", tag("h2", name, id=f"{_id(name)}-title"), content, id=_id(name), aria_labelledby=f"{_id(name)}-title")


def _id(name: str) -> str:
    return name.lower().replace(" ", "-")


def _labels(runs: Sequence[Reported]) -> list[str]:
    """Names of the runs; where two are equal, URIs."""
    names = [run.record.name for run in runs]
    return names if len(set(names)) == len(names) else [run.record.uri for run in runs]


def _under(run: Named, runs: Sequence[Named], content: Html) -> Html:
    """Under a heading of its own, where there are several runs."""
    return content if len(runs) == 1 else join([tag("h3", run.label), content])


# --- sections -----------------------------------------------------------------------------------------


def _state(run: Named) -> Html:
    record = run.record
    kind = {"succeeded": "good", "failed": "bad", "lost": "bad"}.get(record.state, "going" if record.is_going else "saved")
    told = f" as of {clock(record.made)}; call tandem report again for news" if record.is_going else ""
    return tag("p", tag("span", record.state, class_=f"state {kind}"), told, class_="lead")


def _summary(runs: Sequence[Named]) -> Html:
    facts = [_facts(run.record) for run in runs]
    if len(runs) == 1:
        tiles = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts[0].items()]
        return tag("dl", tiles, class_="facts")
    names = list(dict.fromkeys(name for each in facts for name in each))
    rows = [(name, *(each.get(name, "") for each in facts)) for name in names]
    return data_table(("", *(run.label for run in runs)), rows, caption="The runs side by side")


def _facts(record: RunRecord) -> dict[str, str]:
    last, rates = record.last, sorted(step.samples_per_second or 0.0 for step in record.steps)
    began = record.attempts[0].began if record.attempts else record.ended
    causes = ", ".join(f"{count:,} {cause}" for cause, count in sorted(record.masked_causes.items()))
    facts = {
        "state": record.state,
        "step": f"{last.step if last else 0:,} of {record.plan.total_steps:,}",
        "loss": number(last.loss) if last else "–",
        "samples a second": f"{number(rates[len(rates) // 2])} (median)" if rates else "–",
        "time": duration(max(0.0, record.ended - began)),
        "attempts": f"{len(record.attempts)}, of which {record.failures} failed",
        "workers": ", ".join(dict.fromkeys(str(attempt.world_size) for attempt in record.attempts)) or "–",
        "global batch": f"{record.plan.layout.global_batch:,}",
        "masked samples": causes or "none",
        "newest checkpoint": record.latest_checkpoint or "none",
        "run directory": record.uri,
    }
    newest = {result["evaluation"]: result for result in record.results if "failed" not in result}
    scores = {
        f"{name}: {result['main']}": f"{number(result['scores'][result['main']])} at step {result['step']}"
        for name, result in newest.items()
    }
    return {**dict(list(facts.items())[:3]), **scores, **dict(list(facts.items())[3:])}


def _health(named: Sequence[Named], runs: Sequence[Reported]) -> Html:
    parts = [curves.health(named)]
    for label, run in zip(named, runs, strict=True):
        charts = curves.similarity_histograms(run.record)
        if not charts and run.look is not None:
            charts = looks.similarities(run.look)
        parts.append(_under(label, named, tag("div", charts, class_="charts")) if charts else Html())
    return join(parts)


def _per_run(named: Sequence[Named], runs: Sequence[Reported], show: Any) -> Html:
    """What needs the model, of each run; or why it is not there."""
    return join(
        [
            _under(label, named, show(run.look) if run.look else tag("p", run.look_missing, class_="note"))
            for label, run in zip(named, runs, strict=True)
        ]
    )


def _hard_negatives(named: Sequence[Named], runs: Sequence[Reported]) -> list[tuple[str, Html]]:
    """No section where no run has any."""
    parts = []
    for label, run in zip(named, runs, strict=True):
        if run.look is not None and run.look.hard is not None:
            parts.append(_under(label, named, looks.hard_negatives(run.look.hard)))
        elif run.look is not None and run.look.hard_missing:
            parts.append(_under(label, named, tag("p", run.look.hard_missing, class_="note")))
    return [("Hard negatives", join(parts))] if parts else []


def _masked(record: RunRecord) -> Html:
    if not record.masked_causes:
        return tag("p", "None: every sample could be used.", class_="note")
    total = sum(record.masked_causes.values())
    shown = "" if total == len(record.masked) else f" The first {len(record.masked)} are listed."
    causes = [(cause, f"{count:,}") for cause, count in sorted(record.masked_causes.items())]
    rows = [(str(each.step), each.cause, each.key, str(each.place), each.uri) for each in record.masked]
    return join(
        [
            tag("p", f"{total:,} rows were masked, a sample once for each step that needed it.{shown}"),
            data_table(("cause", "rows"), causes, caption="By cause"),
            tag("details", tag("summary", "Which samples"), data_table(("step", "cause", "key", "place in the tar", "tar"), rows)),
        ]
    )


def _specs(runs: Sequence[Named]) -> Html:
    parts = []
    if len(runs) > 1:
        specs = [dict(_leaves(run.record.spec.model_dump(mode="json"))) if run.record.spec else {} for run in runs]
        names = sorted({name for spec in specs for name in spec})
        rows = [
            (name, *(spec.get(name, "") for spec in specs)) for name in names if len({spec.get(name) for spec in specs}) > 1
        ]
        parts.append(data_table(("field", *(run.label for run in runs)), rows, caption="Where the specs differ"))
    for run in runs:
        plan = data_table(("what", "value"), list(_leaves(run.record.facts)), caption="Plan")
        spec = tag("pre", run.record.spec_text, tabindex="0", aria_label="spec.yaml")
        parts.append(_under(run, runs, join([tag("h3", "spec.yaml"), spec, tag("h3", "Plan"), plan])))
    return join(parts)


def _leaves(value: Any, path: str = "") -> list[tuple[str, str]]:
    """(dotted path, value) of all that nests; lists of plain values stay whole."""
    if isinstance(value, dict):
        return [leaf for key, each in value.items() for leaf in _leaves(each, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list | tuple) and any(isinstance(each, dict) for each in value):
        return [leaf for place, each in enumerate(value) for leaf in _leaves(each, f"{path}.{place}")]
    return [(path, value if isinstance(value, str) else json.dumps(value))]


# --- what is in the page ------------------------------------------------------------------------------


def _resource(name: str) -> str:
    return (files("orchestrator.report") / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
