"""What is exported: a checkpoint's model, and what its run knows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from jobspecs.job import JobSpec
from workers.data.tokenize import Tokenizer
from workers.export.towers import PlainTower
from workers.models.model import ContrastiveModel
from workers.run import RunDirectory
from workers.storage import Storage
from workers.train.checkpoint import Manifest
from workers.trained import load_trained


@dataclass(frozen=True)
class Source:
    """A checkpoint, loaded."""

    spec: JobSpec
    checkpoint: str
    """URI."""
    manifest: Manifest
    model: ContrastiveModel
    """In eval mode, on the CPU."""
    tokenizers: dict[str, Tokenizer]
    """By text column."""
    scores: tuple[dict[str, Any], ...]
    """Results of the evaluations of this checkpoint, as the run keeps them."""

    @classmethod
    def of_checkpoint(
        cls,
        spec: JobSpec,
        run: RunDirectory,
        checkpoint: str,
        storage: Storage,
        scores: tuple[dict[str, Any], ...] = (),
    ) -> Source:
        """Reads the checkpoint at the URI `checkpoint`. Raises CheckpointError, DataError, StorageError, UsageError."""
        trained = load_trained(storage, spec, run, checkpoint)
        return cls(spec, checkpoint, trained.manifest, trained.model, trained.tokenizers, scores)

    @property
    def towers(self) -> tuple[PlainTower, ...]:
        """In the order image, text, query, document."""
        sides_of: dict[str, list[str]] = {}
        for side, name in self.model.tower_of.items():
            sides_of.setdefault(name, []).append(side)
        return tuple(PlainTower.of(name, tuple(sides), self.model.tower(sides[0])) for name, sides in sides_of.items())

    @property
    def log_scale(self) -> float:
        """Logarithm of the scale of similarities, clamped as in training."""
        with torch.no_grad():
            return float(self.model.logit_scale().log())

    @property
    def bias(self) -> float:
        """What a sigmoid loss adds to scaled similarities; 0 for others."""
        with torch.no_grad():
            return 0.0 if self.model.bias is None else float(self.model.bias())

    def longest(self, tower: PlainTower) -> str:
        """The text column with the longest texts of those that a tower encodes: they share its tokenizer."""
        return max(tower.sides, key=lambda side: self.spec.data.texts[side].context_length)
