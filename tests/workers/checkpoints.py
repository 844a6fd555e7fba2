"""Checkpoints of models that were never trained, in run directories as a driver leaves them."""

from __future__ import annotations

import hashlib

import safetensors.torch
import yaml

from jobspecs.job import JobSpec
from workers.data.order import Layout
from workers.data.tokenize import Tokenizer
from workers.models.build import build
from workers.models.model import ContrastiveModel
from workers.run import RunDirectory, RunPlan
from workers.storage import Storage, join
from workers.train.checkpoint import File, Manifest


def write_untrained_run(
    spec: JobSpec, run: RunDirectory, tokenizers: dict[str, Tokenizer], steps: tuple[int, ...] = (7,)
) -> ContrastiveModel:
    """A run directory whose checkpoints, one at each of `steps`, hold random weights of another seed than the spec's.
    Returns their model."""
    storage = Storage(spec.storage.s3)
    model = build(spec.model, spec.data, spec.objective, spec.seed + 123, tokenizers)
    plan = RunPlan(Layout(spec.seed, 8, 4, 4, (8,)), 7, spec.experiment_hash(), "fingerprint-of-the-index")
    storage.write(run.spec, yaml.safe_dump(spec.model_dump(mode="json")).encode())
    storage.write(run.plan, plan.to_json())
    for name, tokenizer in tokenizers.items():
        storage.write(run.tokenizer(name), tokenizer.to_bytes())
    for step in steps:
        write_checkpoint(storage, run.checkpoint(step), model, plan, step)
    return model


def write_checkpoint(storage: Storage, uri: str, model: ContrastiveModel, plan: RunPlan, step: int) -> None:
    """A checkpoint of parameters alone, as one rank writes it."""
    content = safetensors.torch.save(model.state_dict())
    file = File("model-a00001-r00000-000.safetensors", len(content), hashlib.sha256(content).hexdigest())
    manifest = Manifest(
        step=step,
        spec_hash=plan.spec_hash,
        index_fingerprint=plan.index_fingerprint,
        masked_samples=0,
        attempt=1,
        world_size=1,
        shapes={name: tuple(value.shape) for name, value in model.state_dict().items()},
        files=(file,),
    )
    storage.write(join(uri, file.name), content)
    storage.write(join(uri, "manifest.json"), manifest.to_json())
