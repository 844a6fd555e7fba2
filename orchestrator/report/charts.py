"""Charts as SVG that is drawn here: they are there without scripts and on paper. Pure: numbers in, `Html` out.

Each is a figure with its name, a legend where there are several series, and its numbers in a table behind it. What the
script (`report.js`) adds on top reads `data-chart`: the values under the pointer or the cursor keys.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.report.html import Html, tag
from orchestrator.report.scale import Bin, Scale, number, thin, ticks
from orchestrator.report.tables import data_table

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 16, 34
MOST_BINS = 300
"""Of a line: more can't be told apart in WIDTH."""
MOST_ROWS = 40
"""Of the table behind a line."""
COLORS = 8
"""Series that look different; behind them they look alike again, and the legend names their order."""


@dataclass(frozen=True)
class Series:
    """A line."""

    name: str
    points: Sequence[tuple[float, float | None]]
    """(x, y), x ascending; None where there is no number."""
    color: int = 0
    faint: bool = False
    """Of what does not count: thin and dashed."""
    intervals: Sequence[tuple[float, float] | None] = ()
    """(low, high) of each point; then points are marked."""


@dataclass(frozen=True)
class Mark:
    """Something that happened at x."""

    x: float
    kind: Literal["attempt", "failure", "saved"]
    words: str


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_name: str = "step",
    marks: Sequence[Mark] = (),
    level: tuple[str, float] | None = None,
    note: str = "",
    zero: bool = False,
) -> Html:
    """Lines over x. level: a horizontal line and its name, such as chance. zero: whether y begins at 0."""
    shown = [(one, _bins(one)) for one in series]
    filled = [(one, bins) for one, bins in shown if any(bins)]
    if not filled:
        return tag("figure", tag("figcaption", title), tag("p", "No data yet.", class_="note"), class_="chart empty")
    xs = [point.x for _, bins in filled for point in bins if point] + [mark.x for mark in marks]
    ys = [end for one, bins in filled for end in _ends(one, bins)]
    ys += [] if level is None else [level[1]]
    x = Scale.over(xs, LEFT, WIDTH - RIGHT, tight=True)
    y = Scale.over([*ys, *([0.0] if zero else [])], HEIGHT - BOTTOM, TOP)
    drawn = [
        *axes(x, y, x_name),
        *(_level(level, x, y) if level else ()),
        *(_mark(mark, x) for mark in marks),
        *(part for one, bins in filled for part in _line(one, bins, x, y)),
        tag("line", class_="cursor", x1=0, x2=0, y1=TOP, y2=HEIGHT - BOTTOM),
    ]
    hover = {
        "x": x_name,
        "series": [
            {
                "name": one.name,
                "color": one.color % COLORS,
                "points": [[x(point.x), y(point.mean), number(point.x), _told(one, point)] for point in bins if point],
            }
            for one, bins in filled
        ],
    }
    return figure(title, drawn, hover, _legend(filled, level, marks), _table(x_name, filled), note)


# --- parts of a line chart ----------------------------------------------------------------------------


def _bins(one: Series) -> list[Bin | None]:
    return thin(one.points, max(1, len(one.points)) if one.intervals else MOST_BINS)


def _ends(one: Series, bins: Sequence[Bin | None]) -> list[float]:
    """What the y axis must hold."""
    if one.faint:
        return [point.mean for point in bins if point]
    ends = [end for point in bins if point for end in (point.low, point.high)]
    return ends + [end for interval in one.intervals if interval for end in interval]


def axes(x: Scale, y: Scale, x_name: str) -> list[Html]:
    """Grid, ticks and the name of x."""
    left, right, bottom = x.start, x.end, y.start
    parts = []
    for value in ticks(y.low, y.high):
        parts.append(tag("line", class_="grid", x1=left, x2=right, y1=y(value), y2=y(value)))
        parts.append(tag("text", number(value), class_="y", x=left - 6, y=y(value) + 4))
    for value in ticks(x.low, x.high):
        parts.append(tag("line", class_="grid", x1=x(value), x2=x(value), y1=bottom, y2=bottom + 4))
        parts.append(tag("text", number(value), class_="x", x=x(value), y=bottom + 17))
    parts.append(tag("text", x_name, class_="x name", x=(left + right) / 2, y=HEIGHT - 3))
    return parts


def _level(level: tuple[str, float], x: Scale, y: Scale) -> list[Html]:
    name, value = level
    return [
        tag(
            "line",
            tag("title", f"{name}: {number(value)}"),
            class_="level",
            x1=x.start,
            x2=x.end,
            y1=y(value),
            y2=y(value),
        )
    ]


def _mark(mark: Mark, x: Scale) -> Html:
    at = x(mark.x)
    sign = "M{0},{1}l8,8m0,-8l-8,8" if mark.kind == "failure" else "M{0},{1}l4,8l4,-8Z"
    return tag(
        "g",
        tag("title", mark.words),
        tag("line", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM),
        tag("path", d=sign.format(round(at - 4, 1), 4)),
        class_=f"mark {mark.kind}",
    )


def _line(one: Series, bins: Sequence[Bin | None], x: Scale, y: Scale) -> list[Html]:
    color = f"c{one.color % COLORS}"
    parts = []
    runs: list[list[Bin]] = [[]]
    for point in bins:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    for run in filter(None, runs):
        if len(run) > 1 and run[0].count > 1 and not one.faint:
            edge = [(point.x, point.high) for point in run] + [(point.x, point.low) for point in reversed(run)]
            parts.append(tag("path", d="M" + "L".join(f"{x(a)},{y(b)}" for a, b in edge) + "Z", class_=f"band {color}"))
        path = "M" + "L".join(f"{x(point.x)},{y(point.mean)}" for point in run)
        parts.append(tag("path", d=path, class_=f"line {color}{' faint' if one.faint else ''}"))
        if one.intervals or len(run) == 1:
            parts += [tag("circle", cx=x(point.x), cy=y(point.mean), r=3, class_=f"fill {color}") for point in run]
    for (place, _), interval in zip(one.points, one.intervals, strict=False):
        if interval:
            low, high = y(interval[0]), y(interval[1])
            parts.append(
                tag("path", d=f"M{x(place)},{low}V{high}m-4,0h8M{x(place) - 4},{low}h8", class_=f"line {color}")
            )
    return parts


def _told(one: Series, point: Bin) -> str:
    """The value of a point in words."""
    for (place, _), interval in zip(one.points, one.intervals, strict=False):
        if place == point.x and interval:
            return f"{number(point.mean)} ({number(interval[0])}…{number(interval[1])})"
    if point.count > 1:
        return f"{number(point.mean)} ({number(point.low)}…{number(point.high)} of {point.count})"
    return number(point.mean)


def _legend(
    filled: Sequence[tuple[Series, Sequence[Bin | None]]], level: tuple[str, float] | None, marks: Sequence[Mark]
) -> list[Html]:
    kinds = {mark.kind for mark in marks}
    items = [
        tag("li", tag("span", class_=f"key c{one.color % COLORS}{' faint' if one.faint else ''}"), one.name)
        for one, _ in filled
        if len(filled) > 1 or one.name
    ]
    if level:
        items.append(tag("li", tag("span", class_="key level"), f"{level[0]} {number(level[1])}"))
    signs = {
        "attempt": ("▼", "an attempt begins"),
        "saved": ("▼", "asked to save and end"),
        "failure": ("✕", "an attempt failed"),
    }
    items += [
        tag("li", tag("span", sign, class_=f"sign {kind}"), words)
        for kind, (sign, words) in signs.items()
        if kind in kinds
    ]
    return items


def _table(x_name: str, filled: Sequence[tuple[Series, Sequence[Bin | None]]]) -> Html:
    """At most about MOST_ROWS rows: a series may have other places than the next one."""
    columns = [{point.x: _told(one, point) for point in _bins_for_table(one)} for one, _ in filled]
    places = sorted({place for column in columns for place in column})
    rows = [(number(place), *(column.get(place, "") for column in columns)) for place in places]
    return data_table((x_name, *(one.name or "value" for one, _ in filled)), rows)


def _bins_for_table(one: Series) -> list[Bin]:
    return [point for point in (_bins(one) if one.intervals else thin(one.points, MOST_ROWS)) if point]


def figure(title: str, drawn: Sequence[Html], hover: object, legend: Sequence[Html], table: Html, note: str) -> Html:
    """A chart with its name, legend, note and table. hover: what the script tells of it."""
    return tag(
        "figure",
        tag("figcaption", title),
        tag(
            "div",
            tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", aria_hidden="true"),
            class_="plot",
            data_chart=json.dumps(hover, separators=(",", ":")),
            tabindex="0",
            role="img",
            aria_label=f"{title}. A chart; arrow keys read its points out, the table below has them.",
        ),
        tag("ul", legend, class_="legend") if legend else None,
        tag("p", note, class_="note") if note else None,
        tag("details", tag("summary", f"Numbers: {title}"), table),
        class_="chart",
    )
