"""What is recorded of a run, and what follows from it: state, status, metrics, results.

The driver appends events; ranks append metrics (workers/train/record.py). Nothing else is stored: the
status is derived from these each time it is asked for, by anyone who holds the run directory.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from jobspecs.errors import NotFoundError, UsageError
from jobspecs.evaluation import evaluation_hash
from jobspecs.redaction import redacted
from orchestrator.lease import live_driver
from workers.run import PartsWriter, RunDirectory, RunPlan, committed_steps, read_parts
from workers.run_inputs import load_spec
from workers.storage import Storage, join


class State(Enum):
    """The state of a run. A run whose driver died is `lost`: `tandem run` goes on with it."""

    RUNNING = ("running", False)
    EVALUATING = ("evaluating", False)
    INTERRUPTED = ("interrupted", True)
    LOST = ("lost", True)
    FAILED = ("failed", True)
    SUCCEEDED = ("succeeded", True)

    def __init__(self, label: str, is_terminal: bool) -> None:
        self.label = label
        self.is_terminal = is_terminal


_STATE_AFTER = {
    "run_started": State.RUNNING,
    "training_finished": State.EVALUATING,
    "run_interrupted": State.INTERRUPTED,
    "run_failed": State.FAILED,
    "run_succeeded": State.SUCCEEDED,
}


@dataclass(frozen=True)
class Status:
    """The status of a run: the JSON of `tandem status -o json`."""

    name: str
    run_directory: str
    state: str
    attempt: int
    """The newest attempt; 0 before the first."""
    step: int
    """Optimizer steps done, committed or not."""
    total_steps: int
    world_size: int
    """Ranks of the newest attempt."""
    loss: float | None
    bad_samples: dict[str, int]
    """Rows that were masked, by cause. A sample counts once for each step that needed it."""
    filtered: int
    """Samples that the sources' filters leave out: they are in no batch."""
    failures: list[dict[str, Any]]
    """Failed attempts: attempt, step, kind, cause."""
    latest_checkpoint: str | None
    """URI of the newest commit."""
    evaluations: list[dict[str, Any]]
    """Results, one for each (checkpoint, evaluation); of one that failed and has none, step, name and the cause in
    `failed`. One of an evaluation whose section is another now is named as `Ledger.results` says."""
    message: str
    """The newest event in words."""
    submission_id: str | None
    """The job of a Ray cluster that drove it last; None for a run that was typed."""


def _without_secrets(value: Any) -> Any:
    """The value of an event's field: causes and tracebacks quote what others raised."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {key: _without_secrets(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(each) for each in value]
    return value


class Ledger:
    """The record of one run."""

    def __init__(self, storage: Storage, run: RunDirectory) -> None:
        self.storage = storage
        self.run = run
        self._prefix = ""
        self._writer: PartsWriter | None = None
        self._flushing = threading.Lock()
        self._kept: list[dict[str, Any]] = []
        """Events that the writer does not have yet: it can't be made while the storage is away."""

    # --- written by the driver, from any of its threads ---

    def write_as(self, driver: int) -> None:
        """The events to come are those of the driver of that number, in parts that no other driver writes. To be said
        before the first."""
        self._prefix = f"d{driver:05d}-"

    def event(self, kind: str, message: str, /, **fields: Any) -> dict[str, Any]:
        """Appends an event and makes it durable. Returns it. Raises StorageError, as `flush` does."""
        event = self.append(kind, message, **fields)
        self.flush()
        return event

    def append(self, kind: str, message: str, /, **fields: Any) -> dict[str, Any]:
        """Appends an event, which is durable after the next `flush`. Returns it."""
        event = {"time": time.time(), "event": kind, "message": redacted(message), **_without_secrets(fields)}
        self._kept.append(event)
        return event

    def flush(self) -> None:
        """Makes all events durable. Raises StorageError; nothing is lost, the next flush tries again."""
        with self._flushing:
            if self._writer is None:
                self._writer = PartsWriter(self.storage, self.run.events, self._prefix)
            while self._kept:
                self._writer.append(self._kept.pop(0))
            self._writer.flush()

    # --- read by anyone ---

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first; of two drivers, all of the later one's after the other's."""
        return list(read_parts(self.storage, self.run.events))

    def every_record(self) -> Iterator[dict[str, Any]]:
        """The metrics of all attempts, attempt after attempt: a step that was done again has several records."""
        return read_parts(self.storage, self.run.metrics)

    def metrics(self) -> Iterator[dict[str, Any]]:
        """A record a step, in step order; where attempts overlap, the newest attempt's."""
        newest: dict[int, dict[str, Any]] = {}
        for record in self.every_record():
            newest[record["step"]] = record
        return (newest[step] for step in sorted(newest))

    def bad_samples(self) -> dict[str, int]:
        """Masked rows by cause; a step that was done again after a failure counts once."""
        return dict(Counter(record["cause"] for record in self.masked_samples()))

    def masked_samples(self) -> list[dict[str, Any]]:
        """What became masked rows, by step: `workers.data.rows.BadSample` and the step. A step that was done again
        counts once."""
        records = read_parts(self.storage, self.run.bad_samples)
        newest = {(record["step"], record["uri"], record["place"]): record for record in records}
        return [newest[key] for key in sorted(newest)]

    def last_metrics(self) -> dict[str, Any] | None:
        """The newest record of the newest attempt."""
        parts = self.storage.list(self.run.metrics)
        if not parts:
            return None
        lines = self.storage.read(parts[-1].uri).splitlines()
        record: dict[str, Any] = json.loads(lines[-1])
        return record

    def results(self) -> list[dict[str, Any]]:
        """The evaluation results, by step and name. One that is damaged is none.

        One that was done of another section than the spec now has under its name can't be compared with the others: it
        is named `<name> (earlier section <hash8>)`, and so has a series of its own.
        """
        listed = self.storage.list(join(self.run.uri, "evaluations"))
        found = [result for info in listed if (result := self._result(info.uri)) is not None]
        hashes = self._evaluation_hashes() if found else {}
        return [_named_apart(result, hashes) for result in found]

    def _result(self, uri: str) -> dict[str, Any] | None:
        try:
            result = json.loads(self.storage.read(uri))
            whole = (
                isinstance(result["step"], int)
                and isinstance(result["evaluation"], str)
                and isinstance(result["scores"][result["main"]], int | float)
            )
            return result if whole else None
        except (NotFoundError, ValueError, KeyError, TypeError):
            return None

    def _evaluation_hashes(self) -> dict[str, str]:
        """Of the evaluations that the run's spec has now, by name; none where it can't be read."""
        try:
            return {each.name: evaluation_hash(each) for each in load_spec(self.storage, self.run).evaluations}
        except (NotFoundError, UsageError, ValueError):  # of another version
            return {}

    def plan(self) -> RunPlan | None:
        """What the run has fixed; None for a run that was never started."""
        try:
            return RunPlan.from_json(self.storage.read(self.run.plan))
        except NotFoundError:
            return None

    def status(self) -> Status:
        """Raises UsageError when there is no run in this directory."""
        plan = self.plan()
        if plan is None:
            raise UsageError(f"{self.run.uri} holds no run. Give a run directory, such as runs/<name>.")
        events = self.events()
        attempts = [event for event in events if event["event"] == "attempt_started"]
        last = self.last_metrics()
        commits = committed_steps(self.storage, self.run)
        results = self.results()
        return Status(
            name=self.run.name,
            run_directory=self.run.uri,
            state=self.state(events).label,
            attempt=attempts[-1]["attempt"] if attempts else 0,
            step=_step_of(attempts, commits, last),
            total_steps=plan.total_steps,
            world_size=attempts[-1]["world_size"] if attempts else 0,
            loss=last["loss"] if last else None,
            bad_samples=self.bad_samples(),
            filtered=max((event.get("filtered", 0) for event in events), default=0),
            failures=[
                {key: event.get(key) for key in ("attempt", "step", "kind", "cause")}
                for event in events
                if event["event"] == "attempt_failed"
            ],
            latest_checkpoint=self.run.checkpoint(commits[-1]) if commits else None,
            evaluations=results + _failed_evaluations(events, results),
            message=events[-1]["message"] if events else "",
            submission_id=next(
                (event.get("submission_id") for event in reversed(events) if event["event"] == "run_started"), None
            ),
        )

    def state(self, events: list[dict[str, Any]]) -> State:
        """The state that `events` and the driver's heartbeat tell."""
        states = [_STATE_AFTER[event["event"]] for event in events if event["event"] in _STATE_AFTER]
        state = states[-1] if states else State.RUNNING
        return state if state.is_terminal or live_driver(self.storage, self.run) else State.LOST


def _step_of(attempts: list[dict[str, Any]], commits: list[int], last: dict[str, Any] | None) -> int:
    """Steps done by the newest attempt; what an older one did after the last commit is to be done again."""
    attempt, start = (attempts[-1]["attempt"], attempts[-1]["step"]) if attempts else (0, 0)
    done = last["step"] if last and last["attempt"] == attempt else start
    return max([done, *commits[-1:]])


def _named_apart(result: dict[str, Any], hashes: dict[str, str]) -> dict[str, Any]:
    """The result, with the section that it is of in its name where the spec now has another one."""
    name, of = result["evaluation"], result.get("spec_hash")  # some of older versions say nothing of it
    if of is None or hashes.get(name, of) == of:
        return result
    return {**result, "evaluation": f"{name} (earlier section {str(of)[:8]})"}


def _failed_evaluations(events: list[dict[str, Any]], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Evaluations whose newest try failed and that have no result, by step. `tandem eval` may have mended them."""
    mended = {(result["step"], result["evaluation"]) for result in results}
    newest = {
        (event.get("step", 0), event["evaluation"]): event  # older runs have none
        for event in events
        if event["event"] in ("evaluation_started", "evaluation_finished", "evaluation_failed")
    }
    return [
        {"step": step, "evaluation": name, "failed": event["reason"]}
        for (step, name), event in sorted(newest.items())
        if event["event"] == "evaluation_failed" and (step, name) not in mended
    ]
