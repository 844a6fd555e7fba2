"""What the model makes of samples, as pictures: neighbours, map, hard negatives. Pure: a `Look` in, `Html` out."""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING

from orchestrator.report.bars import histogram
from orchestrator.report.charts import COLORS
from orchestrator.report.html import Html, join, tag
from orchestrator.report.scale import Scale
from orchestrator.report.tables import data_table

if TYPE_CHECKING:
    from orchestrator.report.hard import HardNegatives
    from orchestrator.report.look import Grid, Item, Look, Neighbour

MAP_WIDTH, MAP_HEIGHT = 920, 460
LONGEST = 300
"""Letters of a text that are shown."""


def neighbours(look: Look) -> Html:
    """A table for each direction: a query, and what is nearest to it."""
    about = f"{look.samples} samples of {look.source}, by the checkpoint of step {look.step}. ✓: belongs to it."
    return join([tag("p", about, class_="note"), *(_grid(grid) for grid in look.grids)])


def embedding_map(look: Look) -> Html:
    """The plane of the first two principal components, to be pointed at."""
    points = sorted(look.map.points, key=lambda point: point.x)
    x = Scale.over([point.x for point in points], 16, MAP_WIDTH - 16, tight=True)
    y = Scale.over([point.y for point in points], MAP_HEIGHT - 16, 16, tight=True)
    sides = list(dict.fromkeys(point.side for point in look.map.points))
    marks, hover = [], []
    for point in points:
        side = sides.index(point.side)
        at = (x(point.x), y(point.y))
        shape = (
            f"M{at[0] - 4},{at[1]}a4,4 0 1,0 8,0a4,4 0 1,0 -8,0" if side == 0 else f"M{at[0] - 4},{at[1] - 4}h8v8h-8Z"
        )
        marks.append(tag("path", d=shape, class_=f"dot c{side % COLORS}"))
        hover.append([*at, point.side, _cut(point.item.text), _data(point.item.image) or ""])
    rows = [(point.side, _cut(point.item.text), f"{point.x:.3f}, {point.y:.3f}") for point in points]
    legend = [
        tag("li", tag("span", "●" if side == 0 else "■", class_=f"sign ink{side}"), name)
        for side, name in enumerate(sides)
    ]
    gap = f" The gap between the means of both sides, {look.map.gap:.2f}, is taken out." if len(sides) > 1 else ""
    return tag(
        "figure",
        tag("figcaption", "Embeddings in two dimensions"),
        tag(
            "div",
            tag(
                "svg",
                marks,
                tag("circle", class_="ring", r=8),
                viewBox=f"0 0 {MAP_WIDTH} {MAP_HEIGHT}",
                aria_hidden="true",
            ),
            class_="plot map",
            data_points=json.dumps(hover, separators=(",", ":")),
            tabindex="0",
            role="img",
            aria_label="A map of the embeddings; arrow keys go from point to point, the table below lists them.",
        ),
        tag("ul", legend, class_="legend"),
        tag("p", f"First two principal components, {look.map.explained:.0%} of the variance.{gap}", class_="note"),
        tag("details", tag("summary", "Numbers: the map"), data_table(("side", "text", "place"), rows)),
        class_="chart",
    )


def similarities(look: Look) -> list[Html]:
    """Of the looked at samples, where no evaluation measured them."""
    if not look.positives:
        return []
    shares = [("positives", look.positives, 0), ("negatives", look.negatives, 1)]
    note = f"Shares of the cosines of {look.samples} samples of {look.source}."
    return [histogram(f"Similarities at step {look.step}", len(look.positives), shares, note)]


def hard_negatives(hard: HardNegatives) -> Html:
    """Before training and after: how far the answers are above what looks like them."""
    told = []
    earlier, later = ([("documents", each, 0)] for each in (hard.documents.before, hard.documents.after))
    for color, origin in enumerate(hard.origins, 1):
        name = f"hard negatives{origin.name and f' of {origin.name}'}"
        before, after = origin.beaten
        told.append(
            f"Of {origin.queries} queries, {before:.0%} had their document nearer than all of their {name} by the "
            f"first weights, and {after:.0%} have by the checkpoint's."
        )
        earlier.append((name, origin.cosines.before, color))
        later.append((name, origin.cosines.after, color))
    charts = [
        histogram(f"{when}: cosines to the queries", len(hard.documents.before), shares)
        for when, shares in (("Before training", earlier), ("After", later))
    ]
    rows: list[tuple[str, str, str, str, str]] = []
    for query, answer, others in hard.rows:
        mark = tag("b", "✓ ", _cut(answer.text))
        rows.append((_cut(query), mark, "its document", f"{answer.before:.3f}", f"{answer.after:.3f}"))
        for each in others:
            rows.append(("", _cut(each.text), each.origin or "negative", f"{each.before:.3f}", f"{each.after:.3f}"))
    head = ("query", "document", "what", "cosine before", "after")
    table = data_table(head, rows, caption="Queries with ✓ document and hard negatives")
    return join([[tag("p", line) for line in told], tag("div", charts, class_="charts"), table])


def _grid(grid: Grid) -> Html:
    title = f"{grid.one} → {grid.other}"
    share = (
        "" if math.isnan(grid.first_is_match) else f": the nearest belongs to {grid.first_is_match:.0%} of the queries"
    )
    most = max((len(found) for _, found in grid.rows), default=0)
    head = tag(
        "tr", tag("th", grid.one, scope="col"), [tag("th", f"{place + 1}.", scope="col") for place in range(most)]
    )
    body = [
        tag("tr", tag("th", _item(query), scope="row"), [_neighbour(each) for each in found])
        for query, found in grid.rows
    ]
    table = tag("table", tag("caption", title + share), tag("thead", head), tag("tbody", body), class_="grid")
    return tag("div", table, class_="scroll whole", tabindex="0", role="region", aria_label=title)


def _neighbour(neighbour: Neighbour) -> Html:
    mark = "✓ " if neighbour.is_match else ""
    return tag(
        "td",
        _item(neighbour.item),
        tag("span", f"{mark}{neighbour.cosine:.3f}", class_="cosine"),
        class_="match" if neighbour.is_match else None,
    )


def _item(item: Item) -> Html:
    text = _cut(item.text)
    if item.image is None:
        return tag("span", text, class_="words")
    picture = tag("img", src=_data(item.image), alt=text or "an image", width=64, height=64)
    return join([picture, tag("span", text, class_="words") if text else None])


def _data(image: bytes | None) -> str | None:
    return None if image is None else f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
