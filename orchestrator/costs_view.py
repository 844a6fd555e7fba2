"""The costs of a job as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.costs import Costs
from orchestrator.report.scale import duration
from orchestrator.tables import in_bytes


def show_costs(console: Console, costs: Costs | None, warnings: Sequence[str]) -> None:
    """Prints them, and what to mind; of a job whose tokenizer is still to be trained, that they are not known yet."""
    if costs is None:
        console.print(
            "What it takes of machines is known when the tokenizer is trained: plan again after the start.",
            soft_wrap=True,
        )
    else:
        console.print(costs_table(costs))
    for warning in warnings:
        console.print("[yellow]note[/yellow] ", Text(warning), soft_wrap=True, highlight=False)


def costs_table(costs: Costs) -> Table:
    """What a job takes, a row each."""
    table = Table(title="what it takes", title_justify="left", show_header=False)
    table.add_column("what", style="bold")
    table.add_column("how much", overflow="fold")
    for what, value in _rows(costs).items():
        table.add_row(what, Text(value))
    return table


def _rows(costs: Costs) -> dict[str, str]:
    towers = ", ".join(
        f"{name} {_count(tower.parameters)}{'' if tower.trained else ' (frozen)'}"
        for name, tower in costs.towers.items()
    )
    memory = costs.device_memory
    parts = ", ".join(f"{name} {in_bytes(size)}" for name, size in memory.items() if name != "peak" and size)
    rows = {
        "parameters": f"{_count(costs.parameters)}: {towers}",
        f"memory of a {costs.device.upper()} rank": f"about {in_bytes(memory['peak'])} at most: {parts}",
        "host memory": f"about {in_bytes(costs.host_memory)} a rank: loaders, and a checkpoint on its way",
        "reduced": f"{in_bytes(costs.reduced_bytes_per_step)} a step and rank, for gradients and weights",
        "read": f"{in_bytes(costs.read_bytes_per_step)} a step, by all ranks together",
        f"{costs.samples_per_second:,} samples/s need": (
            f"{in_bytes(costs.storage_bytes_per_second)}/s of the storage and "
            f"{in_bytes(costs.network_bytes_per_second)}/s into each rank"
        ),
        "a checkpoint": in_bytes(costs.checkpoint_bytes),
    }
    if costs.goodput is not None:
        good = costs.goodput
        rows["goodput"] = (
            f"{good.fraction:.1%} with a commit each {duration(good.interval_seconds)}; at best "
            f"{good.best_fraction:.1%}, each {duration(good.best_interval_seconds)}"
        )
    return rows


def _count(number: int) -> str:
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
