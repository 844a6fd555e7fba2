"""A checkpoint -> the model that it is of, with its tokenizers: where evaluations, exports and embeddings begin."""

from __future__ import annotations

from dataclasses import dataclass

from jobspecs.job import JobSpec
from workers.data.tokenize import Tokenizer
from workers.models.build import build
from workers.models.model import ContrastiveModel
from workers.run import RunDirectory
from workers.run_inputs import load_tokenizers
from workers.storage import Storage
from workers.train.checkpoint import Manifest, load_model


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds of a model."""

    model: ContrastiveModel
    """fp32, on the CPU, in eval mode."""
    tokenizers: dict[str, Tokenizer]
    """By text column."""
    manifest: Manifest


def load_trained(storage: Storage, spec: JobSpec, run: RunDirectory, checkpoint: str, *, raw: bool = False) -> Trained:
    """The model of a spec as the checkpoint at the URI `checkpoint` has it: averaged, if it is and not `raw`.

    Raises CheckpointError, DataError, StorageError, UsageError.
    """
    tokenizers = load_tokenizers(storage, run, spec.data)
    model = build(spec.model, spec.data, spec.objective, spec.seed, tokenizers)
    manifest = load_model(storage, checkpoint, model, raw=raw)
    return Trained(model.eval(), tokenizers, manifest)
