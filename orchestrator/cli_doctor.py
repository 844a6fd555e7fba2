"""`tandem doctor`: shows what the checks say."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.command import DONE, FAILED, WRONG, Address, Output, OutputOption, Overrides, told


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `tandem`."""
    app.command()(doctor)


def doctor(
    spec: Annotated[
        Path | None, typer.Argument(help="The job spec that shall run: its storage, its workers.", show_default=False)
    ] = None,
    address: Address = None,
    overrides: Overrides = [],  # noqa: B006 - typer reads it
    output: OutputOption = Output.TABLE,
) -> None:
    """Check what a job will meet: versions, GPUs, memory, /dev/shm, storage rights and speed, the cluster.

    Each finding is ok, warn or fail, with its remedy; the exit code is 1 if something fails. A small object is written
    to storage.root, read and deleted.
    """
    with told(WRONG):
        from jobspecs.load import load
        from orchestrator.doctor.examine import examine
        from orchestrator.doctor.finding import Level

        job = None if spec is None else load(spec, tuple(overrides))
        found = list(examine(job, address))
    if output is Output.JSON:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        from rich.console import Console

        from orchestrator.tables import findings_table

        Console().print(findings_table(found))
    sys.exit(FAILED if any(finding.level is Level.FAIL for finding in found) else DONE)
