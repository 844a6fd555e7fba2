"""What a run is and how it stands, in words and tables: summary, masked samples, spec and plan. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from orchestrator.report.curves import Named
from orchestrator.report.html import Html, join, tag
from orchestrator.report.record import RunRecord
from orchestrator.report.scale import duration, number
from orchestrator.report.tables import data_table
from orchestrator.report.timeline import clock


def under(run: Named, runs: Sequence[Named], content: Html) -> Html:
    """Under a heading of its own, where there are several runs."""
    return content if len(runs) == 1 else join([tag("h3", run.label), content])


def state(run: Named) -> Html:
    """How the run stands."""
    record = run.record
    kind = {"succeeded": "good", "failed": "bad", "lost": "bad"}.get(
        record.state, "going" if record.is_going else "saved"
    )
    told = f" as of {clock(record.made)}; call tandem report again for news" if record.is_going else ""
    return tag("p", tag("span", record.state, class_=f"state {kind}"), told, class_="lead")


def summary(runs: Sequence[Named]) -> Html:
    """Key figures: of one run as tiles, of several as a table."""
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


def masked(record: RunRecord) -> Html:
    """What could not be used, by cause, and which samples."""
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
            tag(
                "details",
                tag("summary", "Which samples"),
                data_table(("step", "cause", "key", "place in the tar", "tar"), rows),
            ),
        ]
    )


def specs(runs: Sequence[Named]) -> Html:
    """Where the specs of several runs differ, and each spec and plan in full."""
    parts = []
    if len(runs) > 1:
        specs = [dict(_leaves(run.record.spec.model_dump(mode="json"))) if run.record.spec else {} for run in runs]
        names = sorted({name for spec in specs for name in spec})
        rows = [
            (name, *(spec.get(name, "") for spec in specs))
            for name in names
            if len({spec.get(name) for spec in specs}) > 1
        ]
        parts.append(data_table(("field", *(run.label for run in runs)), rows, caption="Where the specs differ"))
    heading = "h3" if len(runs) == 1 else "h4"
    for run in runs:
        plan = data_table(("what", "value"), list(_leaves(run.record.facts)))
        spec = tag("pre", run.record.spec_text, tabindex="0", aria_label="spec.yaml")
        parts.append(under(run, runs, join([tag(heading, "spec.yaml"), spec, tag(heading, "Plan"), plan])))
    return join(parts)


def _leaves(value: Any, path: str = "") -> list[tuple[str, str]]:
    """(dotted path, value) of all that nests; lists of plain values stay whole."""
    if isinstance(value, dict):
        return [leaf for key, each in value.items() for leaf in _leaves(each, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list | tuple) and any(isinstance(each, dict) for each in value):
        return [leaf for place, each in enumerate(value) for leaf in _leaves(each, f"{path}.{place}")]
    return [(path, value if isinstance(value, str) else json.dumps(value))]
