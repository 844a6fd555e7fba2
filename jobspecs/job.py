"""The whole: a `JobSpec`, what of it is the experiment, and its hash.

A field belongs to the experiment when changing it changes a batch, a loss or a parameter. The rest
(`NOT_THE_EXPERIMENT`) may differ between two attempts of one run: where it runs, how often it commits,
how it is scored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from jobspecs.base import Name, Section
from jobspecs.checkpoint import Checkpoint
from jobspecs.cluster import Cluster
from jobspecs.data import Data
from jobspecs.evaluation import Evaluation
from jobspecs.mining import Mining
from jobspecs.model import Model
from jobspecs.objective import Objective
from jobspecs.retry import Retry
from jobspecs.rules import check_fit
from jobspecs.schedule import EarlyStop
from jobspecs.storage import StorageSpec
from jobspecs.training import Training
from jobspecs.units import NonNegativeInt

NOT_THE_EXPERIMENT = (
    "apiVersion",
    "name",
    "cluster",
    "checkpoint",
    "retry",
    "evaluations",
    "stop",
    # `tandem mine` makes other tars, and training on those names them. A job that mines for itself is another matter.
    "mining",
    "storage",
    "data.loader",
    "data.max_bad_fraction",
    # Moved tars are the same samples: the index fingerprint holds names, sizes and counts.
    "data.sources.*.urls",
    "data.sources.*.index",
    # How the same numbers are computed: but for float rounding, they change nothing.
    "training.micro_batch",
    "training.zero_stage",
    "training.gradient_checkpointing",
    "training.compile",
    "training.health_every",
    # Bucket sizes, overlap and the like. All else below `deepspeed` may change the numbers.
    "deepspeed.zero_optimization",
)
"""Dotted paths of the fields that a resumed run may change; `*` stands for any list index."""


class JobSpec(Section):
    """A contrastive training job: the same experiment on any cluster."""

    apiVersion: Literal["tandem/v1"]
    """Version of this language: `tandem/v1`."""
    name: Name
    """Names the run directory, `<storage.root>/<name>`."""
    seed: NonNegativeInt = 0
    """Keys every random draw: order, augmentation, first weights."""
    objective: Objective
    """What is contrasted with what."""
    data: Data
    """Which samples, and how they become tensors."""
    model: Model
    """The towers."""
    training: Training
    """Batch, length, optimizer."""
    cluster: Cluster = Cluster()
    """What it runs on."""
    checkpoint: Checkpoint = Checkpoint()
    """How often it commits."""
    retry: Retry = Retry()
    """What happens after a failure."""
    evaluations: list[Evaluation] = Field(default=[])
    """How it is scored."""
    stop: EarlyStop | None = None
    """Ends training before its last step, where an evaluation finds nothing better any more."""
    mining: Mining | None = None
    """How `tandem mine` finds hard negatives for its data, and whether the job does so while it trains."""
    storage: StorageSpec = StorageSpec()
    """Where the run is kept."""
    deepspeed: dict[str, JsonValue] = Field(default={})
    """DeepSpeed's own configuration, laid under Tandem's: what the fields above decide can't be said otherwise here."""

    @model_validator(mode="after")
    def _sections_fit(self) -> JobSpec:
        check_fit(self)
        return self

    @property
    def job_mining(self) -> Mining | None:
        """`mining`, if the job itself mines."""
        return self.mining if self.mining is not None and self.mining.in_job else None

    def experiment(self) -> dict[str, Any]:
        """The fields that define the experiment, by dotted path (`training.global_batch`: 512)."""
        free = [pattern for pattern in NOT_THE_EXPERIMENT if pattern != "mining" or self.job_mining is None]
        return {
            ".".join(path): value
            for path, value in _leaves(self.model_dump(mode="json"))
            if not any(_matches(path, pattern.split(".")) for pattern in free)
        }

    def experiment_hash(self) -> str:
        """sha256 of `experiment()` in canonical JSON: equal specs, in any spelling, have equal hashes."""
        canonical = json.dumps(self.experiment(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def changed_fields(before: JobSpec, after: JobSpec) -> list[str]:
    """What makes `after` another experiment: `training.global_batch: 512 -> 1024`, one line a field."""
    old, new = before.experiment(), after.experiment()
    return [
        f"{path}: {old.get(path, 'absent')} -> {new.get(path, 'absent')}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(child, (*path, key))
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):  # none of no sections
        for number, child in enumerate(value):
            yield from _leaves(child, (*path, str(number)))
    else:
        yield path, value


def _matches(path: tuple[str, ...], pattern: list[str]) -> bool:
    """Whether `path` lies at or below `pattern`."""
    return len(path) >= len(pattern) and all(want in ("*", have) for have, want in zip(path, pattern, strict=False))
