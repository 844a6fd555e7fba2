"""What the commands of `cli_*.py` share: arguments and options, exit codes, and how errors and results are told.

Nothing here imports torch or Ray when it is loaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from jobspecs.errors import TandemError
from jobspecs.redaction import redacted

if TYPE_CHECKING:
    from jobspecs.storage import S3
    from orchestrator import api
    from orchestrator.cluster import RayJobs
    from orchestrator.jobs import Job
    from orchestrator.views.choose import Show

T = TypeVar("T")

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done, the job failed, the spec or the call is wrong, interrupted after a checkpoint."""
DEBUG_VARIABLE = "TANDEM_DEBUG"
"""The environment variable that shows tracebacks of errors made for users, as `tandem --debug` does."""


class VectorType(StrEnum):
    """How a number of an embedding is stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class Format(StrEnum):
    """Whose layout an export has."""

    TRANSFORMERS = "transformers"
    SENTENCE_TRANSFORMERS = "sentence-transformers"
    SAFETENSORS = "safetensors"


class KubeRay(StrEnum):
    """Which of KubeRay's objects runs a job."""

    RAYJOB = "rayjob"
    RAYCLUSTER = "raycluster"


class Output(StrEnum):
    """How a command answers."""

    TABLE = "table"
    JSON = "json"


class ResultsOutput(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


Spec = Annotated[Path, typer.Argument(help="The job spec, a YAML file.", show_default=False)]
Run = Annotated[str, typer.Argument(help="A run, by directory, URI or name below --root.", show_default=False)]
JobName = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="A run directory or its URI, or the name or submission id of a job: on the cluster, where one is named, "
        "else a run below --root.",
        show_default=False,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The Ray cluster: its dashboard's URL, such as http://head:8265. By default what RAY_ADDRESS names.",
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Ranks, in place of cluster.workers.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="PATH=VALUE", help="Sets a field, as in training.steps=100; += adds.")
]
Model = Annotated[
    str,
    typer.Argument(
        help="A run (its newest checkpoint) by directory, URI or name below --root; or the folder of a checkpoint.",
        show_default=False,
    ),
]
EvaluatedModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="As of `embed`: a run or the folder of a checkpoint; or a model folder of transformers or "
        "sentence-transformers, or its name on the hub.",
        show_default=False,
    ),
]
Root = Annotated[str, typer.Option(help="Where runs are looked for by name, as storage.root.")]
Endpoint = Annotated[
    str | None, typer.Option(metavar="URL", help="S3 endpoint of an s3:// run, as storage.s3.endpoint.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but the end, and errors.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Watch it until it ends. Ctrl-C leaves it running.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print it.")]
ResultsOutputOption = Annotated[ResultsOutput, typer.Option("--output", "-o", help="How to print them.")]


def print_results(found: list[dict[str, Any]], output: ResultsOutput) -> None:
    """Results of evaluations, as the user wants them."""
    from orchestrator.results import as_csv, as_markdown, failures

    match output:
        case ResultsOutput.JSON:
            print(json.dumps(found, indent=2))
        case ResultsOutput.CSV:
            print(as_csv(found))
        case ResultsOutput.MARKDOWN:
            print(as_markdown(found))
        case ResultsOutput.TABLE:
            from rich.console import Console

            from orchestrator.tables import results_table

            Console().print(results_table(found))
            for line in failures(found):
                print(line)


def with_workers(overrides: list[str], workers: int | None) -> tuple[str, ...]:
    """The overrides and --workers."""
    return (*overrides, *([] if workers is None else [f"cluster.workers={workers}"]))


def section(kind: Callable[..., T], **fields: object) -> T:
    """A section of a spec whose fields were given as options. Raises UsageError."""
    from pydantic import ValidationError

    from jobspecs.errors import UsageError

    try:
        return kind(**fields)
    except ValidationError as error:
        faults = (f"--{fault['loc'][0]}: {fault['msg']}, given: {fault['input']!r}" for fault in error.errors())
        raise UsageError("\n".join(faults)) from error


def given_s3(endpoint: str | None) -> S3 | None:
    """How S3 is reached, where the user says it."""
    from jobspecs.storage import S3

    return None if endpoint is None else section(S3, endpoint=endpoint)


def named_cluster(address: str | None) -> RayJobs | None:
    """The cluster that the user names, by option or environment, if one is named. Raises UsageError."""
    from orchestrator.cluster import connect
    from orchestrator.cluster_address import given_address

    named = given_address(address)
    return None if named is None else connect(named)


def job_of(job: str, root: str, endpoint: str | None, address: str | None) -> Job:
    """The job that the user names. Raises UsageError."""
    from orchestrator.jobs import find

    return find(job, root, given_s3(endpoint), lambda: named_cluster(address))


def drive(run_of: Callable[[], api.Run], show: Show) -> NoReturn:
    """Runs a job in this process, or goes on with it, and ends the command as the job ends."""
    with told(WRONG):
        from orchestrator.job_entry import view_of_driver
        from orchestrator.ledger import State

        run = run_of()
        prepared = run.prepare()
        view = view_of_driver(show, prepared.spec.name)
    with told(FAILED):
        state = run.run(view, prepared=prepared)
    code = DONE if state is State.SUCCEEDED else INTERRUPTED
    with told(code):  # results that can't be read now are there all the same
        status = run.status()
        view.results(status, f"{status.name}: {state.label} after {status.step} steps")
    sys.exit(code)


def show_of(output: Output, quiet: bool) -> Show:
    """How the user wants to see a run. Raises UsageError."""
    from jobspecs.errors import UsageError
    from orchestrator.views.choose import Show

    if output is Output.JSON:
        if quiet:
            raise UsageError("-o json tells all, and --quiet nothing but the end. Choose one.")
        return Show.JSON
    return Show.QUIET if quiet else Show.TEXT


def open_run(run: str, endpoint: str | None, root: str) -> api.Run:
    """A run by its directory, URI or name. Raises UsageError."""
    from orchestrator.api import Run
    from orchestrator.named_run import named_run

    return Run.open(named_run(run, root).uri, given_s3(endpoint))


def tell_traceback(error: BaseException) -> None:
    """Prints it with its traceback, as Python does, but without secrets."""
    print(redacted("".join(traceback.format_exception(error))), end="", file=sys.stderr)


def redact_threads() -> None:
    """From now on, what ends a thread of this process is told without secrets too."""

    def tell(ended: threading.ExceptHookArgs) -> None:
        if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
            print(f"Exception in thread {ended.thread.name if ended.thread else ''}:", file=sys.stderr)
            tell_traceback(ended.exc_value)

    threading.excepthook = tell


@contextlib.contextmanager
def told(code: int) -> Iterator[None]:
    """Errors made for users are printed and end the command with `code`; a traceback is shown where asked for."""
    from jobspecs.errors import UsageError

    try:
        yield
    except TandemError as error:
        if os.environ.get(DEBUG_VARIABLE):
            tell_traceback(error)
        print(f"tandem: {redacted(str(error))}", file=sys.stderr)
        sys.exit(WRONG if isinstance(error, UsageError) else code)
    except KeyboardInterrupt:
        print("tandem: stopped at once; what was committed is kept", file=sys.stderr)
        sys.exit(INTERRUPTED)
