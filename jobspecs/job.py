"""The whole: a `JobSpec`, what of it is the experiment, and its hash."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from jobspecs.base import Name, Section, defaults
from jobspecs.checkpoint import Checkpoint
from jobspecs.cluster import Cluster
from jobspecs.data import Data
from jobspecs.evaluation import Evaluation
from jobspecs.identity import Effect, leaves, meaning_of
from jobspecs.mining import Mining
from jobspecs.model import Model
from jobspecs.objective import Objective
from jobspecs.retry import Retry
from jobspecs.rules import check_fit
from jobspecs.schedule import EarlyStop
from jobspecs.storage import StorageSpec
from jobspecs.tracking import Tracking
from jobspecs.training import Training
from jobspecs.units import NonNegativeInt


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
    cluster: Cluster = defaults(Cluster)
    """What it runs on."""
    checkpoint: Checkpoint = defaults(Checkpoint)
    """How often it commits."""
    retry: Retry = defaults(Retry)
    """What happens after a failure."""
    evaluations: list[Evaluation] = Field(default=[])
    """How it is scored."""
    stop: EarlyStop | None = None
    """Ends training before its last step, where an evaluation finds nothing better any more."""
    mining: Mining | None = None
    """How `tandem mine` finds hard negatives for its data, and whether the job does so while it trains."""
    storage: StorageSpec = defaults(StorageSpec)
    """Where the run is kept."""
    tracking: Tracking = defaults(Tracking)
    """Where its curves go beside that."""
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
        return {
            ".".join(path): value
            for path, value in leaves(self.model_dump(mode="json"))
            if meaning_of(path, mines=self.job_mining is not None).effect is Effect.EXPERIMENT
        }

    def experiment_hash(self) -> str:
        """sha256 of `experiment()` in canonical JSON: equal specs, in any spelling, have equal hashes."""
        canonical = json.dumps(self.experiment(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
