"""What a rank records of its training: metrics of each step, and the samples that were masked."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from jobspecs.errors import StorageError
from workers.data.rows import BadSample
from workers.repeating import Repeating
from workers.run import PartsWriter, RunDirectory
from workers.storage import Storage
from workers.train.health import Health
from workers.train.pulse import Phase, pulse

FLUSH_SECONDS = 1.0
"""A record is at most about this old when it reaches the run directory."""
CLOSE_SECONDS = 60.0
"""How long the end of an attempt waits for its last records to be written."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepMetrics:
    """One line of the metrics: an optimizer step. The JSON of `tandem metrics`."""

    step: int
    """Optimizer steps done, this one included."""
    loss: float
    logit_scale: float
    learning_rate: float
    grad_norm: float
    """Global L2 norm before clipping."""
    samples: int
    """Samples seen by the run so far."""
    masked: int
    """Samples of this batch that were masked."""
    samples_per_second: float
    data_wait_fraction: float
    """Share of the step's time that the rank waited for its batch."""
    gathered_bytes: int
    """Bytes that a rank received for the loss: identities, features and their gradients, sums."""
    micro_batch: int
    """Rows that a rank encoded at a time."""
    skipped: bool
    """Whether the update was left out, as gradients overflowed in fp16 and the loss scale was lowered."""
    health: Health | None
    """A check, every `training.health_every` steps."""
    batch_digest: str
    negatives: int
    """Version of the negatives that the job mined; 0 where it mined none."""
    phase_seconds: Mapping[Phase, float]
    """What the rank's time since the record before went into: `data`, `forward`, `gather`, `backward`, `update`, and
    `save`, which stands between the two steps. By the host's clock: see `Pulse.take_seconds`."""
    storage_bytes: int
    """Bytes that the rank's loader has read from the storage since the record before, steps ahead; what its cache gave
    is none of them."""
    world_size: int
    attempt: int
    time: float
    """Unix time."""


def _json(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Recorder:
    """Buffers records, and writes them out about once a second in a thread. A context manager.

    A store that is away delays records and nothing else: that they come late is no reason to stop training.
    """

    def __init__(self, storage: Storage, run: RunDirectory, attempt: int, rank: int) -> None:
        self._metrics = PartsWriter(storage, run.metrics, f"a{attempt:05d}-") if rank == 0 else None
        self._bad = PartsWriter(storage, run.bad_samples, f"a{attempt:05d}-r{rank:05d}-")
        self.causes: Counter[str] = Counter()
        """Masked samples of this rank so far, by cause."""
        self._flushing = Repeating("recorder", FLUSH_SECONDS, self._try_flush, once_more=True)

    def __enter__(self) -> Recorder:
        self._flushing.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes what there is; where that fails or takes too long, it is lost."""
        pulse.phase("end", "its metrics")
        self._flushing.stop()
        self._flushing.join(CLOSE_SECONDS)

    def step(self, metrics: StepMetrics, bad: list[BadSample]) -> None:
        """Records a step; `metrics` are written by rank 0 alone."""
        if self._metrics:
            self._metrics.append(_json(asdict(metrics)))
        for sample in bad:
            self.causes[sample.cause] += 1
            self._bad.append({"step": metrics.step, **asdict(sample)})

    def flush(self) -> None:
        """Writes what is buffered. Raises StorageError. From any thread."""
        if self._metrics:
            self._metrics.flush()
        self._bad.flush()

    def _try_flush(self) -> None:
        try:
            self.flush()
        except StorageError as error:
            logger.warning("metrics could not be written yet: %s", error)
