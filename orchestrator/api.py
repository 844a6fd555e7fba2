"""Jobs out of Python, as `tandem` does them: from a notebook, a script, or a test.

    >>> from orchestrator import Run
    >>> run = Run.from_spec("digits_clip.yaml", "training.steps=8")
    >>> run.run(quiet=True)
    <State.SUCCEEDED: ('succeeded', True)>
    >>> run.status().step
    8
    >>> [record["step"] for record in run.metrics()]
    [1, 2, 3, 4, 5, 6, 7, 8]
    >>> run.results()[0]["evaluation"]
    'held-out-digits'
    >>> run.report(model=False)
    'file:///.../runs/digits-clip/report.html'

A run of another process, or of a cluster, is opened by its run directory: `Run.open("s3://bucket/runs/clip")`.
`submit("digits_clip.yaml", address="http://head:8265")` has a Ray cluster run it. Errors are those of
`jobspecs.errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobspecs.errors import UsageError
from jobspecs.job import JobSpec
from jobspecs.load import load
from jobspecs.storage import S3
from orchestrator.ledger import Ledger, State, Status
from workers.run import RunDirectory
from workers.storage import Storage, absolute, join

if TYPE_CHECKING:
    from orchestrator.plan import Plan
    from orchestrator.prepare import Prepared
    from orchestrator.submission import Submitted
    from orchestrator.views.view import View


@dataclass(frozen=True)
class Run:
    """A run: what is to be run, and what there is of it. Made by `from_spec` or `open`."""

    ledger: Ledger
    """Its record."""
    spec: JobSpec | None
    """What it shall run; None for one that was opened by its directory."""
    s3: S3 | None
    """How S3 is reached, where the user says it."""

    @classmethod
    def from_spec(cls, spec: str | Path | JobSpec, *overrides: str) -> Run:
        """The run of a spec: a YAML file, or a spec that is loaded already. overrides: `training.steps=100`, as `--set`
        takes them, of a file.

        Raises SpecError: all its faults at once.
        """
        job = _spec_of(spec, overrides)
        place = join(absolute(job.storage.root), job.name)
        return cls(Ledger(Storage(job.storage.s3), RunDirectory(place)), job, job.storage.s3)

    @classmethod
    def open(cls, directory: str | Path, s3: S3 | None = None) -> Run:
        """The run in a directory, given as a path or URI. s3: how it is reached, where not as AWS's."""
        return cls(Ledger(Storage(s3 or S3()), RunDirectory(absolute(str(directory)))), None, s3)

    @property
    def uri(self) -> str:
        """Its run directory."""
        return self.ledger.run.uri

    def prepare(self) -> Prepared:
        """The job, checked against data and run directory as they are now, and planned. Nothing is started.

        Raises UsageError, DataError, StorageError: what `orchestrator.prepare.prepare` does.
        """
        from orchestrator.prepare import prepare

        return prepare(self._to_run())

    def plan(self) -> Plan:
        """What would run. Raises what `prepare` does; that the run of this name is another experiment is no error."""
        from orchestrator.prepare import prepare

        return prepare(self._to_run(), only_plan=True).plan

    def run(self, view: View | None = None, *, quiet: bool = False, prepared: Prepared | None = None) -> State:
        """Runs the job on this machine, or on the cluster that RAY_ADDRESS names, or goes on with it. Returns SUCCEEDED
        or INTERRUPTED. prepared: what `prepare` has just returned, if it was called.

        In the main thread the first Ctrl-C (in a notebook: interrupting the kernel) saves a checkpoint and ends it, the
        second raises KeyboardInterrupt. view: shows it; by default what `tandem run` shows, or nothing if `quiet`.

        Raises what `prepare` does; UsageError: it is being run already, or the cluster has too little; JobFailedError.
        """
        from orchestrator.driver import Driver
        from orchestrator.interrupt import Interrupt, signals
        from orchestrator.job_entry import view_of_driver
        from orchestrator.views.choose import Show

        prepared, interrupt = prepared or self.prepare(), Interrupt()
        view = view or view_of_driver(Show.QUIET if quiet else Show.TEXT, prepared.spec.name)
        with signals(interrupt), view:
            return Driver(prepared, view, interrupt).run()

    def status(self) -> Status:
        """How it is doing: the fields of `tandem status -o json`. Raises UsageError: it was never started."""
        return self.ledger.status()

    def metrics(self) -> list[dict[str, Any]]:
        """A record a step, in step order, without repeats after resumes: `workers.train.record.StepMetrics`. For
        example `pandas.DataFrame(run.metrics()).plot(x="step", y="loss")`.

        Raises UsageError: it was never started.
        """
        self.status()
        return list(self.ledger.metrics())

    def results(self) -> list[dict[str, Any]]:
        """The results of its evaluations, one for each checkpoint and evaluation: `workers.evaluate.result.Result`; of
        one that failed, the cause in `failed`.

        Raises UsageError: it was never started.
        """
        return self.status().evaluations

    def report(self, out: str | None = None, *, model: bool = True) -> str:
        """Writes its report, one HTML file, and returns where it is. out: a path or URI; by default report.html in the
        run directory. model: also neighbours, map and hard negatives, which need the model.

        Raises UsageError: it was never started; StorageError.
        """
        return report((self,), out, model=model)

    def _to_run(self) -> JobSpec:
        if self.spec is None:
            raise UsageError(
                f"{self.uri} was opened by its directory, to be read. Run.from_spec makes one to run, of a spec."
            )
        return self.spec


def report(runs: Sequence[Run], out: str | None = None, *, model: bool = True) -> str:
    """Writes the report of one run, or of several whose curves lie over each other, and returns where it is.

    Raises UsageError: no run, or one run twice; StorageError.
    """
    from orchestrator.report.write import write_report

    place = None if out is None else absolute(out)
    reason = "" if model else "Left out, as it was asked for."
    return write_report([(run.ledger, run.s3) for run in runs], place, no_model=reason)


def submit(
    spec: str | Path | JobSpec,
    *overrides: str,
    address: str | None = None,
    installed: bool = False,
    new_run: bool = False,
) -> Submitted:
    """Submits a job to a Ray cluster, or goes on with it there, as `tandem submit` does.

    address: the dashboard's URL; by default what RAY_ADDRESS names. installed: the cluster has these packages already.
    new_run: under a name that no run has yet.

    Raises SpecError; UsageError: no cluster there, or the run is running already; JobFailedError: it was not taken.
    """
    from orchestrator.cluster import connect
    from orchestrator.cluster_address import given_address
    from orchestrator.submission import submit as submit_job

    jobs = connect(given_address(address))
    return submit_job(_spec_of(spec, overrides), jobs, installed=installed, new_run=new_run)


def _spec_of(spec: str | Path | JobSpec, overrides: Sequence[str]) -> JobSpec:
    """Raises SpecError, UsageError."""
    if not isinstance(spec, JobSpec):
        return load(spec, tuple(overrides))
    if overrides:
        raise UsageError("overrides are for a spec's file, and this spec is loaded already: load(path, overrides).")
    return spec
