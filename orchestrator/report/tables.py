"""Tables of words and numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.report.html import Html, tag


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
