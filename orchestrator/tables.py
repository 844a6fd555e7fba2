"""Tables, as people read them: a plan, an index, jobs, a status, results."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.indexing import IndexSummary
from orchestrator.ledger import Status
from orchestrator.plan import MiningPlan, Plan
from orchestrator.results import HEADINGS, Result, failures, rows, samples_of

if TYPE_CHECKING:
    from orchestrator.doctor.finding import Finding
    from orchestrator.jobs import Listed


def show_results(console: Console, status: Status, title: str) -> None:
    """Prints the table of results, for instance that which a run ends with, and where the run is."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("step", "evaluation", "score", "value", "chance", "samples"):
        # Of all that could be broken in two on a narrow terminal, only the name that the user gave is.
        table.add_column(
            heading,
            justify="left" if heading in ("evaluation", "score") else "right",
            overflow="fold",
            no_wrap=heading != "evaluation",
        )
    for result in status.evaluations:
        # The main score first; a failed evaluation has none.
        scores = sorted(result.get("scores", {}).items(), key=lambda item: item[0] != result["main"])
        for name, value in scores:
            is_main = name == result["main"]
            _add(
                table,
                str(result["step"]) if is_main else "",
                result["evaluation"] if is_main else "",
                name,
                f"{value:.4f}",
                f"{result['chance']:.4f}" if is_main else "",
                samples_of(result) if is_main else "",
            )
    if table.row_count:
        console.print(table)
    for line in failures(status.evaluations):
        told = f"{line}\nThe same command tries it again."
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    console.print(f"run directory: {status.run_directory}", highlight=False, markup=False, soft_wrap=True)


def results_table(results: list[Result]) -> Table:
    """The results of a run: a row for each, and one for each other score of it."""
    table = Table(title="results", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS[:-1]:
        is_words = heading in ("evaluation", "score")
        # On a narrow terminal the names are broken in two, no number is.
        table.add_column(
            heading,
            justify="left" if is_words else "right",
            overflow="fold",
            no_wrap=not is_words,
            min_width=12 if is_words else None,
        )
    for row in rows(results):
        _add(table, *row[:-1])
        for score in filter(None, row[-1].split(", ")):
            _add(table, "", "", *score.rsplit(" ", 1))
    return table


def jobs_table(jobs: list[Listed]) -> Table:
    """Jobs as people read them: a row for each."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("job", "state", "started", "progress", "run directory"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("job", "state", "started"))
    for job in jobs:
        started = time.strftime("%m-%d %H:%M", time.localtime(job.started)) if job.started else ""
        _add(table, job.submission_id or job.name, job.state, started, job.progress, job.run_directory)
    return table


def findings_table(findings: list[Finding]) -> Table:
    """What `tandem doctor` found, each with its remedy below it."""
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table(show_header=False, box=None, pad_edge=False)
    for no_wrap in (True, True, False):
        table.add_column(no_wrap=no_wrap, overflow="fold")
    for finding in findings:
        told = Text(finding.found)
        if finding.remedy:
            told.append(f"\n{finding.remedy}", style="italic")
        table.add_row(Text(finding.level, style=styles[finding.level]), Text(finding.check), told)
    return table


def plan_table(plan: Plan) -> Table:
    """The plan as people read it."""
    table = Table(title=f"plan of {plan.name}", title_justify="left", show_header=False)
    table.add_column("what", style="bold")
    table.add_column("how much", overflow="fold")
    rows = {
        "run directory": plan.run_directory,
        "shards": f"{plan.shards} with {in_bytes(plan.shard_bytes)}",
        "samples": _samples_of(plan),
        "global batch": f"{plan.global_batch:,} samples on any number of workers{_shares(plan)}",
        "lanes": f"{plan.lanes}, each shuffled in windows of {plan.window:,}",
        "steps": f"{plan.total_steps:,} ({plan.passes:.2f} passes of {plan.steps_per_pass:,})",
        "workers": _workers(plan),
        "rows per rank": f"{plan.rows_per_rank:,} a step ({plan.padding_rows} rows of all ranks only pad)",
        "loader memory": _memory(plan),
        "gathered": f"{in_bytes(plan.gathered_bytes_per_step)} a step and rank, for the loss",
        "checkpoints": f"{plan.checkpoints}, after steps {_steps(plan.checkpoint_steps, plan.checkpoints)}",
        **({} if plan.mining is None else {"mining": _mining(plan.mining)}),
        "evaluations": ", ".join(plan.evaluations) or "none",
        "experiment": plan.spec_hash[:16],
        "data": plan.index_fingerprint[:16],
    }
    for what, value in rows.items():
        _add(table, what, value)
    return table


def index_table(summary: IndexSummary) -> Table:
    """An index as people read it."""
    table = Table(title="index", title_justify="left", show_header=False)
    table.add_column("what", style="bold")
    table.add_column("how much", overflow="fold")
    _add(table, "shards", f"{summary.shards:,} with {in_bytes(summary.shard_bytes)}")
    _add(table, "samples", f"{summary.samples:,}")
    _add(table, "offsets", f"known of {summary.shards_with_offsets:,} shards")
    _add(table, "kept at", f"{summary.out} ({in_bytes(summary.out_bytes)})" if summary.out else "nowhere: give --out")
    return table


def _add(table: Table, *cells: str) -> None:
    """A row of words as they are: causes of failures and paths may look like rich's markup."""
    table.add_row(*map(Text, cells))


def _workers(plan: Plan) -> str:
    """The sizes that the job may run on; and all that are of use, each with its rows that only pad, as a share of the
    global batch."""

    def with_padding(workers: int) -> str:
        most = -(-plan.lanes // workers)
        padding = most * workers / plan.lanes - 1
        share = "<1%" if padding < 0.005 else f"{padding:.0%}"
        return f"{workers} ({share})" if padding else str(workers)

    possible = ", ".join(map(str, plan.possible_workers))
    return f"{possible}; of use, with what only pads: {', '.join(map(with_padding, plan.useful_workers))}"


def _samples_of(plan: Plan) -> str:
    told = f"{plan.samples:,}"
    if plan.filtered:
        told += f"; the filters leave out {plan.filtered:,}"
    if len(plan.sources) == 1:
        told += f"; a pass takes {plan.samples_per_pass:,} of them"
    return told


def _shares(plan: Plan) -> str:
    """What each of several sources has of a batch, and how often it is seen."""
    if len(plan.sources) == 1:
        return ""
    return ": " + ", ".join(
        f"{source.slots:,} of {source.name} ({source.passes:.2f} passes)" for source in plan.sources
    )


def _memory(plan: Plan) -> str:
    memory = plan.loader_memory
    parts = {
        "windows": memory.windows,
        "mined negatives": memory.negatives,
        "read ahead": memory.read_ahead,
        "queues": memory.queues,
        "processes": memory.processes,
    }
    told = ", ".join(f"{what} {in_bytes(size)}" for what, size in parts.items() if size)
    return f"up to {in_bytes(memory.total)} a rank: {told}"


def _steps(steps: tuple[int, ...], count: int) -> str:
    """Of `count` steps those that are told."""
    shown = [f"{step:,}" for step in steps]
    if count > len(shown):
        shown.insert(-1, "…")
    return ", ".join(shown)


def _mining(plan: MiningPlan) -> str:
    when = [f"before training by {plan.before_training}"] if plan.before_training else []
    if plan.every_steps:
        when.append(f"every {plan.every_steps:,} steps by the newest checkpoint")
    versions = f"{plan.versions} version{'s' if plan.versions > 1 else ''}"
    return (
        f"{' and '.join(when)}: {versions}, from steps {_steps(plan.steps, plan.versions)} on; up to {plan.mined} "
        f"negatives a sample, {plan.in_batch} in a pass"
    )


def in_bytes(count: int) -> str:
    """With a binary unit."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def status_table(status: Status) -> Table:
    """The status as people read it."""
    table = Table(title=f"{status.name}: {status.state}", title_justify="left", show_header=False)
    table.add_column("what", style="bold")
    table.add_column("how", overflow="fold")
    loss = "" if status.loss is None else f", loss {status.loss:.4f}"
    _add(table, "step", f"{status.step:,} of {status.total_steps:,}{loss}")
    if status.submission_id:
        _add(table, "job", status.submission_id)
    _add(table, "attempt", f"{status.attempt}, {status.world_size} worker{'s' if status.world_size != 1 else ''}")
    _add(table, "newest checkpoint", status.latest_checkpoint or "none")
    if status.filtered:
        _add(table, "filtered", f"{status.filtered:,} samples that the filters leave out")
    if status.bad_samples:
        causes = ", ".join(f"{count:,} {cause}" for cause, count in sorted(status.bad_samples.items()))
        _add(table, "bad samples", f"{causes}; listed in bad_samples/")
    for failure in status.failures:
        kind = f" ({failure['kind']})" if failure["kind"] else ""  # older runs have none
        _add(table, "failure", f"attempt {failure['attempt']} at step {failure['step']}{kind}: {failure['cause']}")
    _add(table, "last event", status.message)
    return table
