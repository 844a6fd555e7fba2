"""The run directory: all that a run is. Who holds it can resume, evaluate or report the run.

    <storage.root>/<name>/
        spec.yaml                             the spec as it runs
        plan.json                             what the run has fixed: `RunPlan`
        index/<source>.parquet                the shards of each source
        tokenizers/<column>.json              what makes tokens of each text column
        drivers/00001.json …                  a driver each, with its heartbeat: see `orchestrator.lease`
        attempts/a00001.json …                an attempt each, written before it starts: see `workers.train.fence`
        events/d00001-000000.jsonl …          what happened, written by each driver
        metrics/a00001-000000.jsonl …         a line a step, written by rank 0 of each attempt
        bad_samples/a00001-r00000-000000.jsonl …
                                             what became masked rows, written by each rank
        stacks/a00001-r00000.txt              where the threads of a rank were when its attempt hung
        logs/a00001-r00000-000000.log …       what each rank wrote to its output: see `orchestrator.keep_log`
        checkpoints/step-00000100/            safetensors, and manifest.json, written last
        negatives/v00001/                     hard negatives of a job that mines: see `workers.data.negatives`
        evaluations/step-00000100/<name>.json
        report.html                           what `tandem report` makes of all this
        stop                                  there while somebody asks the job to stop

Object stores can't append, so a growing record is a series of parts (`PartsWriter`).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from jobspecs.errors import TandemError
from workers.data.order import Layout
from workers.storage import Storage, basename, join


class RunDirectoryError(TandemError):
    """The run directory holds what this version can't read."""


@dataclass(frozen=True)
class RunPlan:
    """What the plan fixes for the life of a run. The cluster is not in it."""

    layout: Layout
    total_steps: int
    spec_hash: str
    """`JobSpec.experiment_hash()`."""
    index_fingerprint: str
    """`workers.data.index.fingerprint` of the sources."""

    def to_json(self) -> bytes:
        """As stored in plan.json."""
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes) -> RunPlan:
        """The inverse of `to_json`. Raises RunDirectoryError."""
        try:
            fields = json.loads(data)
            return cls(**{**fields, "layout": Layout(**fields["layout"])})
        except (ValueError, TypeError, KeyError) as error:
            raise RunDirectoryError(
                f"plan.json can't be read ({error}): it is damaged, or another version of Tandem wrote it. Go on with "
                "that version, or give the job another name."
            ) from error


@dataclass(frozen=True)
class RunDirectory:
    """The places in a run directory."""

    uri: str

    @property
    def name(self) -> str:
        """The job's name."""
        return basename(self.uri)

    @property
    def spec(self) -> str:
        """The spec."""
        return join(self.uri, "spec.yaml")

    @property
    def plan(self) -> str:
        """The `RunPlan`."""
        return join(self.uri, "plan.json")

    @property
    def drivers(self) -> str:
        """The folder of the drivers' records."""
        return join(self.uri, "drivers")

    @property
    def attempts(self) -> str:
        """The folder of the attempts' records."""
        return join(self.uri, "attempts")

    @property
    def stop(self) -> str:
        """The request to stop; its content says why: `orchestrator.stop_request.Why`."""
        return join(self.uri, "stop")

    @property
    def events(self) -> str:
        """Parts of the event log."""
        return join(self.uri, "events")

    @property
    def metrics(self) -> str:
        """Parts of the attempts' metrics."""
        return join(self.uri, "metrics")

    @property
    def bad_samples(self) -> str:
        """Parts of the lists of masked samples."""
        return join(self.uri, "bad_samples")

    @property
    def logs(self) -> str:
        """Parts of what the ranks wrote to their output."""
        return join(self.uri, "logs")

    def log_part(self, attempt: int, rank: int, number: int) -> str:
        """One of them, from 0."""
        return join(self.logs, f"a{attempt:05d}-r{rank:05d}-{number:06d}.log")

    @property
    def checkpoints(self) -> str:
        """The folder of the checkpoints."""
        return join(self.uri, "checkpoints")

    def stacks(self, attempt: int, rank: int) -> str:
        """Where the threads of a rank were when its attempt hung."""
        return join(self.uri, "stacks", f"a{attempt:05d}-r{rank:05d}.txt")

    def index(self, source: str) -> str:
        """The index of a source."""
        return join(self.uri, "index", f"{source}.parquet")

    def tokenizer(self, column: str) -> str:
        """The tokenizer of a text column."""
        return join(self.uri, "tokenizers", f"{column}.json")

    def driver(self, number: int) -> str:
        """The record of a driver."""
        return join(self.drivers, f"{number:05d}.json")

    def attempt(self, number: int) -> str:
        """The record of an attempt."""
        return join(self.attempts, f"a{number:05d}.json")

    def checkpoint(self, step: int) -> str:
        """The checkpoint after `step` optimizer steps."""
        return join(self.checkpoints, f"step-{step:08d}")

    def negatives(self, version: int) -> str:
        """The folder of a version of the negatives that the job mines."""
        return join(self.uri, "negatives", f"v{version:05d}")

    def evaluation(self, step: int, name: str) -> str:
        """The result of an evaluation of a checkpoint."""
        return join(self.uri, "evaluations", f"step-{step:08d}", f"{name}.json")


def committed_steps(storage: Storage, run: RunDirectory) -> list[int]:
    """Steps of the checkpoints that have a manifest, ascending; whether they are whole is not looked at."""
    manifest = re.compile(re.escape(run.checkpoints) + r"/step-(\d{8,})/manifest\.json")
    matches = (manifest.fullmatch(info.uri) for info in storage.list(run.checkpoints))
    return sorted(int(match.group(1)) for match in matches if match)


class PartsWriter:
    """Appends JSON lines to a series of parts `<folder>/<prefix>000000.jsonl`, `000001`, …

    A part is written whole at each flush, atomically, until it is PART_BYTES long; then the next one
    begins. Thread-safe: `append` never waits for a `flush`. Numbering begins behind the parts that are there.
    """

    PART_BYTES = 256 * 1024

    def __init__(self, storage: Storage, folder: str, prefix: str = "") -> None:
        self._storage = storage
        self._prefix = join(folder, prefix) if prefix else f"{folder}/"
        there = [info.uri for info in storage.list(folder) if info.uri.startswith(self._prefix)]
        self._number = len(there)
        self._lines = bytearray()
        self._written = 0
        self._appending, self._flushing = threading.Lock(), threading.Lock()

    def append(self, record: dict[str, Any]) -> None:
        """Adds one line; it is durable after the next `flush`."""
        line = json.dumps(record).encode() + b"\n"
        with self._appending:
            self._lines += line

    def flush(self) -> None:
        """Writes what was appended. Raises StorageError; nothing is lost, the next flush tries again."""
        with self._flushing:
            with self._appending:
                if len(self._lines) == self._written:
                    return
                part = bytes(self._lines)
            self._storage.write(f"{self._prefix}{self._number:06d}.jsonl", part)
            self._written = len(part)
            if self._written >= self.PART_BYTES:
                self._number += 1
                self._written = 0
                with self._appending:
                    del self._lines[: len(part)]


def read_parts(storage: Storage, folder: str) -> Iterator[dict[str, Any]]:
    """The records of all parts in `folder`, part after part by name."""
    for info in storage.list(folder):
        for line in storage.read(info.uri).splitlines():
            yield json.loads(line)
