"""`tandem run`, `submit`, `resume`: a job begins, or goes on."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.command import (
    DONE,
    FAILED,
    INTERRUPTED,
    WRONG,
    Address,
    Endpoint,
    Follow,
    JobName,
    Output,
    OutputOption,
    Overrides,
    Quiet,
    Root,
    Spec,
    Workers,
    drive,
    job_of,
    named_cluster,
    show_of,
    told,
    with_workers,
)

if TYPE_CHECKING:
    from jobspecs.storage import S3
    from orchestrator.submission import Submitted
    from orchestrator.views.choose import Show

Installed = Annotated[bool, typer.Option("--installed", help="Run what the cluster's image has; ship the spec alone.")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `tandem`."""
    for command in (run, submit, resume):
        app.command()(command)


def run(
    spec: Spec,
    workers: Workers = None,
    overrides: Overrides = [],  # noqa: B006 - typer reads it
    quiet: Quiet = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Run a job on this machine, or go on with it: train, checkpoint, evaluate.

    The run directory is <storage.root>/<name>. Run again, the job goes on from its newest checkpoint; a
    finished job is left as it is. Ctrl-C saves a checkpoint first.

    A terminal shows one live view, anything else lines; -o json writes an object a line: events, progress, the status.
    """
    with told(WRONG):
        from orchestrator.api import Run as ApiRun

        show = show_of(output, quiet)
    drive(lambda: ApiRun.from_spec(spec, *with_workers(overrides, workers)), show)


def submit(
    spec: Spec,
    address: Address = None,
    follow: Follow = False,
    installed: Installed = False,
    new_run: Annotated[
        bool, typer.Option("--new-run", help="Begin a new run, under a name that no run has yet: NAME-2, NAME-3, …")
    ] = False,
    workers: Workers = None,
    overrides: Overrides = [],  # noqa: B006 - typer reads it
    quiet: Quiet = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Submit a job to a Ray cluster, or go on with it there.

    The spec is checked and planned here first; then this code and the spec are shipped. Paths in it must mean the same
    on the cluster, and credentials are the cluster's own. A job that runs is not submitted twice; one that stopped or
    failed goes on from its newest checkpoint.
    """
    with told(WRONG):
        from jobspecs.load import load
        from orchestrator.api import submit as submit_job

        show = show_of(output, quiet)
        job = load(spec, with_workers(overrides, workers))
        submitted = submit_job(job, address=address, installed=installed, new_run=new_run)
    _show(submitted, output, follow=follow)
    if follow:
        _follow(submitted, job.storage.s3, show)


def resume(
    job: JobName,
    address: Address = None,
    follow: Follow = False,
    installed: Installed = False,
    endpoint: Endpoint = None,
    root: Root = "runs",
    quiet: Quiet = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Go on with a job as it was started last: on the cluster, where one is named, else here, as `tandem run`."""
    with told(WRONG):
        from orchestrator.api import Run
        from orchestrator.submission import kept_spec
        from orchestrator.submission import submit as submit_job

        show = show_of(output, quiet)
        found = job_of(job, root, endpoint, address)
        spec = kept_spec(found.storage, found.run)
        jobs = found.jobs or named_cluster(address)
        submitted = None if jobs is None else submit_job(spec, jobs, installed=installed)
    if submitted is None:
        drive(lambda: Run.from_spec(spec), show)
    else:
        _show(submitted, output, follow=follow)
        if follow:
            _follow(submitted, spec.storage.s3, show)


def _show(submitted: Submitted, output: Output, *, follow: bool) -> None:
    if output is Output.JSON:
        # What follows is an object a line, and so is this then.
        line = json.dumps({"type": "submitted", **asdict(submitted)})
        print(line if follow else json.dumps(asdict(submitted), indent=2), flush=True)
        return
    if submitted.submission_id is None:
        print(f"{submitted.name} is finished: all steps and evaluations are done ({submitted.run_directory})")
        return
    steps = "" if submitted.total_steps is None else f", {submitted.total_steps:,} steps"
    how = "goes on" if submitted.resumed else "was submitted"
    print(
        f"{submitted.name} {how} as job {submitted.submission_id} on {submitted.cluster}{steps}\n"
        f"run directory: {submitted.run_directory}",
        flush=True,
    )


def _follow(submitted: Submitted, s3: S3, show: Show) -> None:
    """Shows a job, and ends as it ends."""
    if submitted.submission_id is None:
        return
    with told(FAILED):
        from orchestrator.api import Run
        from orchestrator.cluster import connect
        from orchestrator.follow import follow_job

        ledger = Run.open(submitted.run_directory, s3).ledger
        try:
            entry = follow_job(connect(submitted.cluster), submitted.submission_id, ledger, show)
        except KeyboardInterrupt:
            sys.exit(DONE)
    ends = {"SUCCEEDED": DONE, "STOPPED": INTERRUPTED}
    sys.exit(ends.get(entry.status, FAILED if entry.exit_code is None else entry.exit_code))
