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

WIDTH, HEIGHT = 460, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 16, 34
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
    x = Scale.over(xs, _LEFT, WIDTH - _RIGHT, tight=True)
    y = Scale.over([*ys, *([0.0] if zero else [])], HEIGHT - _BOTTOM, _TOP)
    drawn = [
        *_axes(x, y, x_name),
        *(_level(level, x, y) if level else ()),
        *(_mark(mark, x) for mark in marks),
        *(part for one, bins in filled for part in _line(one, bins, x, y)),
        tag("line", class_="cursor", x1=0, x2=0, y1=_TOP, y2=HEIGHT - _BOTTOM),
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
    return _figure(title, drawn, hover, _legend(filled, level, marks), _table(x_name, filled), note)


def histogram(title: str, bins: int, shares: Sequence[tuple[str, Sequence[float], int]], note: str = "") -> Html:
    """Distributions of cosines over equal bins of [-1, 1], one over the other. shares: name, share of each bin, color."""
    x = Scale(-1, 1, _LEFT, WIDTH - _RIGHT)
    y = Scale.over([0.0, *(share for _, values, _ in shares for share in values)], HEIGHT - _BOTTOM, _TOP)
    width = 2 / bins
    lefts = [-1 + width * place for place in range(bins)]
    drawn = [*_axes(x, y, "cosine")]
    for _, values, color in shares:
        corners = [(-1.0, 0.0)]
        for left, share in zip(lefts, values, strict=True):
            corners += [(left, share), (left + width, share)]
        path = "M" + "L".join(f"{x(a)},{y(b)}" for a, b in [*corners, (1.0, 0.0)]) + "Z"
        drawn.append(tag("path", d=path, class_=f"area c{color % COLORS}"))
    drawn.append(tag("line", class_="cursor", x1=0, x2=0, y1=_TOP, y2=HEIGHT - _BOTTOM))
    middles = [left + width / 2 for left in lefts]
    hover = {
        "x": "cosine",
        "series": [
            {
                "name": name,
                "color": color % COLORS,
                "points": [
                    [x(middle), y(share), f"{middle:.2f}", f"{share:.1%}"]
                    for middle, share in zip(middles, values, strict=True)
                ],
            }
            for name, values, color in shares
        ],
    }
    rows = [
        (f"{left:.2f} to {left + width:.2f}", *(f"{values[place]:.2%}" for _, values, _ in shares))
        for place, left in enumerate(lefts)
        if any(values[place] for _, values, _ in shares)
    ]
    table = data_table(("cosine", *(name for name, _, _ in shares)), rows)
    legend = [tag("li", tag("span", class_=f"key box c{color % COLORS}"), name) for name, _, color in shares]
    return _figure(title, drawn, hover, legend, table, note)


def stacked_bar(title: str, parts: Sequence[tuple[str, float, str]], note: str = "") -> Html:
    """Parts of a whole. parts: name, size, and the size in words."""
    whole = sum(size for _, size, _ in parts) or 1.0
    drawn, at = [], 0.0
    for color, (name, size, words) in enumerate(parts):
        width = size / whole * 100
        rectangle = tag("title", f"{name}: {words}, {size / whole:.1%}")
        drawn.append(
            tag("rect", rectangle, x=round(at, 3), y=0, width=round(width, 3), height=10, class_=f"fill c{color % COLORS}")
        )
        at += width
    rows = [
        (tag("span", tag("span", class_=f"key box c{color % COLORS}"), name), words, f"{size / whole:.1%}")
        for color, (name, size, words) in enumerate(parts)
    ]
    return tag(
        "figure",
        tag("figcaption", title),
        tag("svg", *drawn, viewBox="0 0 100 10", preserveAspectRatio="none", class_="bar", aria_hidden="true"),
        data_table(("what", "time", "share"), rows),
        tag("p", note, class_="note") if note else None,
        class_="chart",
    )


def data_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> Html:
    """A table that scrolls by itself where it is too wide."""
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption) if caption else None,
            tag("thead", tag("tr", [tag("th", name, scope="col") for name in head])),
            tag("tbody", [_row(row) for row in rows]),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption or ", ".join(head),
    )


def _row(row: Sequence[str]) -> Html:
    return tag("tr", tag("th", row[0], scope="row"), [tag("td", cell) for cell in row[1:]])


# --- parts of a line chart ----------------------------------------------------------------------------


def _bins(one: Series) -> list[Bin | None]:
    return thin(one.points, max(1, len(one.points)) if one.intervals else MOST_BINS)


def _ends(one: Series, bins: Sequence[Bin | None]) -> list[float]:
    """What the y axis must hold."""
    if one.faint:
        return [point.mean for point in bins if point]
    ends = [end for point in bins if point for end in (point.low, point.high)]
    return ends + [end for interval in one.intervals if interval for end in interval]


def _axes(x: Scale, y: Scale, x_name: str) -> list[Html]:
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
    return [tag("line", tag("title", f"{name}: {number(value)}"), class_="level", x1=x.start, x2=x.end, y1=y(value), y2=y(value))]


def _mark(mark: Mark, x: Scale) -> Html:
    at = x(mark.x)
    sign = "M{0},{1}l8,8m0,-8l-8,8" if mark.kind == "failure" else "M{0},{1}l4,8l4,-8Z"
    return tag(
        "g",
        tag("title", mark.words),
        tag("line", x1=at, x2=at, y1=_TOP, y2=HEIGHT - _BOTTOM),
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
            parts.append(tag("path", d=f"M{x(place)},{low}V{high}m-4,0h8M{x(place) - 4},{low}h8", class_=f"line {color}"))
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
    signs = {"attempt": ("▼", "an attempt begins"), "saved": ("▼", "asked to save and end"), "failure": ("✕", "an attempt failed")}
    items += [
        tag("li", tag("span", sign, class_=f"sign {kind}"), words) for kind, (sign, words) in signs.items() if kind in kinds
    ]
    return items


def _table(x_name: str, filled: Sequence[tuple[Series, Sequence[Bin | None]]]) -> Html:
    """At most about MOST_ROWS rows: a series may have other places than the next one."""
    columns = [
        {point.x: _told(one, point) for point in _bins_for_table(one)} for one, _ in filled
    ]
    places = sorted({place for column in columns for place in column})
    rows = [(number(place), *(column.get(place, "") for column in columns)) for place in places]
    return data_table((x_name, *(one.name or "value" for one, _ in filled)), rows)


def _bins_for_table(one: Series) -> list[Bin]:
    return [point for point in (_bins(one) if one.intervals else thin(one.points, MOST_ROWS)) if point]


def _figure(
    title: str, drawn: Sequence[Html], hover: object, legend: Sequence[Html], table: Html, note: str
) -> Html:
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
