"""A picture of a run -> a few rows for a terminal, as wide as it is. Pure, but for the time that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.views.pace import duration, number
from orchestrator.views.picture import Picture

BLOCKS = "▁▂▃▄▅▆▇█"
SILENT_SECONDS = 20.0
"""A step that is older than this is told of."""
MOST_EVALUATIONS = 6
"""As many rows; a run with more tells how many others there are."""
LABEL_WIDTH = 11
ENDED = {"succeeded": "green", "failed": "red", "interrupted": "yellow"}
WAITING = ("between attempts", "waiting to try again", "waiting for workers", "stopping")


def panel(picture: Picture, now: float, width: int) -> RenderableType:
    """The rows. now: Unix time. width: of the terminal."""
    inside = width - 4  # the border, and a space on either side
    rows = Table.grid(padding=(0, 1))
    rows.add_column(style="dim", min_width=LABEL_WIDTH, no_wrap=True)
    rows.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for label, row in _rows(picture, now, inside - LABEL_WIDTH - 1):
        rows.add_row(label, row)
    return Panel(
        Group(_heading(picture, now - picture.began, inside), rows),
        title=Text(picture.name, style="bold"),
        title_align="left",
        width=width,
    )


def sparkline(values: Sequence[float], width: int) -> str:
    """Values as blocks, from the least to the greatest; of more than `width` the means of neighbours."""
    if len(values) > width:
        edges = [len(values) * place // width for place in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BLOCKS[min(int((value - low) / span * len(BLOCKS)), len(BLOCKS) - 1)] for value in values)


def _heading(picture: Picture, seconds: float, width: int) -> RenderableType:
    style = ENDED.get(picture.stage, "yellow" if picture.stage in WAITING else "cyan")
    left = Text(picture.stage, style=f"bold {style}")
    if picture.attempt:
        left.append(f"  attempt {picture.attempt}", style="default not bold")
    if picture.workers:
        left.append(f"  {picture.workers} worker{'s' if picture.workers > 1 else ''}", style="default not bold")
    if picture.failures:
        left.append(f"  {picture.failures} failed", style="yellow not bold")
    row = Table.grid(expand=True)
    row.add_column(no_wrap=True, overflow="ellipsis")
    clock = Text(duration(seconds), style="dim")
    row.add_column(justify="right", no_wrap=True, min_width=len(clock))
    row.width = width
    row.add_row(left, clock)
    return row


def _rows(picture: Picture, now: float, width: int) -> list[tuple[str, RenderableType]]:
    """Label and contents of each row."""
    rows: list[tuple[str, RenderableType]] = []
    if picture.total_steps is not None:
        rows.append(("step", _steps(picture, width)))
    metrics = picture.metrics
    if metrics is not None:
        loss = number(metrics["loss"], 4)
        rows.append(("loss", Text(f"{loss}  {sparkline(picture.losses.values, min(width - len(loss) - 2, 60))}")))
        rows.append(("rate", _rate(picture, metrics, now)))
    if picture.commit is not None:
        step, at = picture.commit
        rows.append(("last commit", Text(f"step {step:,}, {duration(max(now - at, 0.0))} ago")))
    shown = list(picture.evaluations.items())
    for place, (name, told) in enumerate(shown[:MOST_EVALUATIONS]):
        rows.append(("" if place else "evaluations", Text(f"{name}: {told}")))
    if len(shown) > MOST_EVALUATIONS:
        rows.append(("", Text(f"and {len(shown) - MOST_EVALUATIONS} more", style="dim")))
    return rows


def _rate(picture: Picture, metrics: dict[str, Any], now: float) -> Text:
    row = Text()
    silent = now - metrics["time"]
    if picture.stage == "training" and silent > SILENT_SECONDS:
        row.append(f"last step {duration(silent)} ago  ", style="yellow")
    row.append(f"{picture.samples_per_second:,.0f} samples/s  data wait {metrics['data_wait_fraction']:.0%}")
    row.append(f"  scale {number(metrics['logit_scale'], 2)}")
    if picture.masked:
        row.append(f"  masked {picture.masked:,}")
    return row


def _steps(picture: Picture, width: int) -> RenderableType:
    total = picture.total_steps or 1
    left = picture.seconds_left
    words = f"{picture.step:,} of {total:,}"
    eta = "" if left is None or picture.step >= total else f"{duration(left)} left"
    row = Table.grid(padding=(0, 2))
    for _ in range(3):
        row.add_column(no_wrap=True)
    bar = max(min(width - len(words) - len(eta) - 4, 40), 4)
    row.add_row(words, ProgressBar(total=total, completed=picture.step, width=bar), eta)
    return row
