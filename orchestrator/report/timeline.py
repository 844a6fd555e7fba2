"""When what happened: attempts, commits and evaluations over the time of day, and the events in words. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from orchestrator.report.html import Html, join, tag
from orchestrator.report.record import RunRecord
from orchestrator.report.scale import Scale, duration, number, ticks
from orchestrator.report.tables import data_table

WIDTH, _LEFT, _ROW = 920, 96, 22
ATTEMPTS_SHOWN = 40
EVENTS_SHOWN = 500
"""The newest ones: a page, not a log."""
_UNITS = ((1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d"))
_CLASS = {"finished": "good", "saved": "saved", "failed": "bad", "cut off": "bad", "running": "going"}


def timeline(record: RunRecord) -> Html:
    """The chart, the table of attempts, and the events."""
    if not record.attempts:
        return join([tag("p", "No attempt has begun yet.", class_="note"), _events(record.events)])
    return join([_chart(record), _attempts(record), _events(record.events)])


def clock(seconds: float) -> str:
    """Unix time as people read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _chart(record: RunRecord) -> Html:
    attempts = record.attempts[-ATTEMPTS_SHOWN:]
    start, end = attempts[0].began, max(record.ended, attempts[0].began + 1)
    size, unit = next(((s, u) for s, u in reversed(_UNITS) if end - start >= 2 * s), _UNITS[0])
    x = Scale(0.0, (end - start) / size, _LEFT, WIDTH - 12)

    def at(moment: float) -> float:
        return x((min(max(moment, start), end) - start) / size)

    height = _ROW * (len(attempts) + 2)
    drawn = []
    for value in ticks(x.low, x.high, 8):
        drawn.append(tag("line", class_="grid", x1=x(value), x2=x(value), y1=0, y2=height))
        drawn.append(tag("text", f"{number(value)} {unit}", class_="x", x=x(value), y=height + 15))
    for row, attempt in enumerate(attempts):
        ended = end if attempt.ended is None else attempt.ended
        words = f"attempt {attempt.number}: {attempt.end}, {duration(max(0.0, ended - attempt.began))}"
        drawn.append(tag("text", f"attempt {attempt.number}", class_="row", x=4, y=_ROW * row + 15))
        drawn.append(_bar(at(attempt.began), at(ended), _ROW * row, _CLASS[attempt.end], words))
    for row, (name, kind) in enumerate((("commits", "checkpoint_committed"), ("evaluations", "")), len(attempts)):
        drawn.append(tag("text", name, class_="row", x=4, y=_ROW * row + 15))
        if kind:
            drawn += [
                _bar(at(e["time"]), at(e["time"]), _ROW * row, "good", f"step {e['step']} is committed")
                for e in record.events
                if e["event"] == kind
            ]
        else:
            drawn += [_bar(at(a), at(b), _ROW * row, "going" if ok else "bad", w) for a, b, ok, w in _scored(record)]
    return tag(
        "figure",
        tag("figcaption", "Attempts, commits and evaluations over time"),
        tag(
            "div",
            tag("svg", drawn, viewBox=f"0 0 {WIDTH} {height + 22}", aria_hidden="true"),
            class_="scroll wide",
            tabindex="0",
            role="img",
            aria_label="Attempts over time. The table below has the same.",
        ),
        tag("p", f"From {clock(start)} on.", class_="note"),
        class_="chart",
    )


def _bar(left: float, right: float, top: float, kind: str, words: str) -> Html:
    return tag(
        "rect",
        tag("title", words),
        x=left,
        y=top + 4,
        width=max(2.0, round(right - left, 1)),
        height=_ROW - 8,
        class_=f"span {kind}",
    )


def _scored(record: RunRecord) -> list[tuple[float, float, bool, str]]:
    """Begin, end, whether it went well, and words, of each evaluation that was tried."""
    began: dict[tuple[int, str], float] = {}
    found = []
    for event in record.events:
        if not event["event"].startswith("evaluation_") or "evaluation" not in event:
            continue
        key = (event.get("step", 0), event["evaluation"])
        if event["event"] == "evaluation_started":
            began[key] = event["time"]
        elif key in began:
            ok = event["event"] == "evaluation_finished"
            found.append((began.pop(key), event["time"], ok, event["message"]))
    return found


def _attempts(record: RunRecord) -> Html:
    rows = [
        (
            str(attempt.number),
            clock(attempt.began),
            duration((record.ended if attempt.ended is None else attempt.ended) - attempt.began),
            str(attempt.world_size),
            f"{attempt.first_step} … {attempt.last_step}",
            tag("span", attempt.end, class_=f"state {_CLASS[attempt.end]}"),
            attempt.cause,
        )
        for attempt in record.attempts
    ]
    return data_table(("attempt", "began", "took", "workers", "steps", "end", "why"), rows, caption="Attempts")


def _events(events: Sequence[dict[str, Any]]) -> Html:
    shown = events[-EVENTS_SHOWN:]
    left_out = f", the newest {len(shown)}" if len(shown) < len(events) else ""
    rows = [(clock(event["time"]), event["event"], event["message"]) for event in shown]
    title = f"Events: {len(events):,}{left_out}"
    return tag("details", tag("summary", title), data_table(("time", "event", "message"), rows))
