"""A run directory -> what a report says of the run without its model: all that the ledger holds, in one object."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields
from typing import Any

from jobspecs.errors import TandemError
from jobspecs.job import JobSpec
from jobspecs.load import loads
from orchestrator import plan as planning
from orchestrator.ledger import Ledger
from orchestrator.report.story import Attempt, Step, attempts_of
from workers.run import RunPlan
from workers.run_inputs import load_indexes, load_tokenizers

MASKED_SHOWN = 500
"""Masked samples that are listed; all are counted."""


@dataclass(frozen=True, slots=True)
class Masked:
    """A sample that was a masked row."""

    step: int
    uri: str
    place: int
    key: str
    cause: str


@dataclass(frozen=True)
class RunRecord:
    """All that the run directory tells."""

    name: str
    uri: str
    state: str
    is_going: bool
    made: float
    """When the record was read, Unix time."""
    plan: RunPlan
    spec: JobSpec | None
    """None where this version can't read it."""
    spec_text: str
    steps: tuple[Step, ...]
    """Each step once, from the newest attempt that did it."""
    superseded: tuple[Step, ...]
    """Steps that a later attempt did again."""
    attempts: tuple[Attempt, ...]
    events: tuple[dict[str, Any], ...]
    """As the ledger has them: `time`, `event`, `message` and more."""
    results: tuple[dict[str, Any], ...]
    """Results of evaluations, and `failed` ones, as `tandem results -o json` has them."""
    masked_causes: dict[str, int]
    masked: tuple[Masked, ...]
    """The first MASKED_SHOWN."""
    latest_checkpoint: str | None
    facts: dict[str, Any]
    """The plan in full, by name, where the indexes can be read; else what plan.json has."""

    @property
    def last(self) -> Step | None:
        """The newest step."""
        return self.steps[-1] if self.steps else None

    @property
    def failures(self) -> int:
        """Attempts that failed."""
        return sum(attempt.end == "failed" for attempt in self.attempts)

    @property
    def ended(self) -> float:
        """When the run ended; while it goes on, when this was read."""
        return self.made if self.is_going or not self.events else float(self.events[-1]["time"])


def read_record(ledger: Ledger) -> RunRecord:
    """Reads it. Raises UsageError: there is no run; RunDirectoryError, StorageError."""
    status = ledger.status()
    plan = ledger.plan()
    assert plan is not None, "a run without one has no status"
    made = time.time()
    events = ledger.events()
    is_going = not ledger.state(events).is_terminal
    every = [Step.of(record, plan.layout.global_batch) for record in ledger.every_record()]
    newest = {step.step: step for step in every}
    spec_text = ledger.storage.read(ledger.run.spec).decode("utf-8", "replace")
    spec = _spec(spec_text, ledger.run.spec)
    masked = ledger.masked_samples()
    return RunRecord(
        name=status.name,
        uri=status.run_directory,
        state=status.state,
        is_going=is_going,
        made=made,
        plan=plan,
        spec=spec,
        spec_text=spec_text,
        steps=tuple(newest[number] for number in sorted(newest)),
        superseded=tuple(step for step in every if newest[step.step] is not step),
        attempts=attempts_of(events, every, is_going=is_going),
        events=tuple(events),
        results=tuple(status.evaluations),
        masked_causes=status.bad_samples,
        masked=tuple(_masked(record) for record in masked[:MASKED_SHOWN]),
        latest_checkpoint=status.latest_checkpoint,
        facts=_facts(ledger, plan, spec),
    )


def _masked(record: dict[str, Any]) -> Masked:
    return Masked(**{field.name: record[field.name] for field in fields(Masked)})


def _spec(text: str, name: str) -> JobSpec | None:
    try:
        return loads(text, name)
    except TandemError:  # another version's: it is shown as it stands
        return None


def _facts(ledger: Ledger, fixed: RunPlan, spec: JobSpec | None) -> dict[str, Any]:
    if spec is not None:
        try:
            indexes = load_indexes(ledger.storage, ledger.run, spec.data)
            tokenizers = load_tokenizers(ledger.storage, ledger.run, spec.data)
            return asdict(planning.make(spec, indexes, fixed, ledger.run.uri, tokenizers))
        except TandemError:  # of a run that has not begun, for instance
            pass
    return asdict(fixed)
