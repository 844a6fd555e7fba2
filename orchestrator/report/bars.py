"""Histograms and bars, as SVG with their numbers in a table. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.report.charts import BOTTOM, COLORS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, axes, figure
from orchestrator.report.html import Html, tag
from orchestrator.report.scale import Scale
from orchestrator.report.tables import data_table


def histogram(title: str, bins: int, shares: Sequence[tuple[str, Sequence[float], int]], note: str = "") -> Html:
    """Distributions of cosines over equal bins of [-1, 1], one over the other. shares: name, shares, color."""
    x = Scale(-1, 1, LEFT, WIDTH - RIGHT)
    y = Scale.over([0.0, *(share for _, values, _ in shares for share in values)], HEIGHT - BOTTOM, TOP)
    width = 2 / bins
    lefts = [-1 + width * place for place in range(bins)]
    drawn = [*axes(x, y, "cosine")]
    for _, values, color in shares:
        corners = [(-1.0, 0.0)]
        for left, share in zip(lefts, values, strict=True):
            corners += [(left, share), (left + width, share)]
        path = "M" + "L".join(f"{x(a)},{y(b)}" for a, b in [*corners, (1.0, 0.0)]) + "Z"
        drawn.append(tag("path", d=path, class_=f"area c{color % COLORS}"))
    drawn.append(tag("line", class_="cursor", x1=0, x2=0, y1=TOP, y2=HEIGHT - BOTTOM))
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
    return figure(title, drawn, hover, legend, table, note)


def stacked_bar(title: str, parts: Sequence[tuple[str, float, str]], note: str = "") -> Html:
    """Parts of a whole. parts: name, size, and the size in words."""
    whole = sum(size for _, size, _ in parts) or 1.0
    drawn, at = [], 0.0
    for color, (name, size, words) in enumerate(parts):
        width = size / whole * 100
        rectangle = tag("title", f"{name}: {words}, {size / whole:.1%}")
        drawn.append(
            tag(
                "rect",
                rectangle,
                x=round(at, 3),
                y=0,
                width=round(width, 3),
                height=10,
                class_=f"fill c{color % COLORS}",
            )
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
