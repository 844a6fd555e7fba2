"""A job that trains in a second: scanned digits, two towers of one layer, batches of 8 from 4 lanes."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import yaml

from jobspecs.job import JobSpec
from jobspecs.load import loads
from jobspecs.storage import S3
from workers.data.demo_digits import digits
from workers.data.demo_tar import Sample, pack_shard
from workers.data.filters import canonical
from workers.data.find_shards import Folders, find_shards
from workers.data.index import Index, fingerprint
from workers.data.index_file import to_parquet
from workers.data.order import Layout
from workers.data.scan import scan_shard
from workers.data.tokenize import byte_tokenizer
from workers.run import RunDirectory, RunPlan
from workers.storage import Storage
from workers.train.task import TrainTask

SPEC = """
apiVersion: tandem/v1
name: tiny
objective:
  kind: image_text
data:
  sources:
    - {name: digits, urls: ["%s/*.tar"]}
  image: {column: jpg, size: 32, crop_scale: [0.7, 1.0]}
  text: {column: txt, context_length: 48}
  lanes: 4
  max_bad_fraction: 0.1
model:
  image: {kind: transformer, width: 32, layers: 1, heads: 2, patch: 8}
  text: {kind: transformer, width: 32, layers: 1, heads: 2}
  embedding_dim: 16
training:
  global_batch: 8
  steps: 7
  precision: fp32
  health_every: 2
  optimizer: {kind: adamw, learning_rate: 1e-3}
  schedule: {kind: cosine, warmup_steps: 2}
checkpoint: {every_steps: 3}
cluster: {collective_timeout_seconds: 400}
"""


@functools.cache
def scans() -> tuple[Sample, ...]:
    """The demo's test split: 360 digits of all classes."""
    return digits(0).splits[1].samples


def broken(sample: Sample) -> Sample:
    """A sample whose JPEG ends early in its header."""
    return replace(sample, jpeg=sample.jpeg[:100])


def write_shards(folder: Path, samples: list[Sample], shards: int) -> None:
    folder.mkdir(parents=True)
    for number in range(shards):
        (folder / f"{number:05d}.tar").write_bytes(pack_shard(number, samples[number::shards]))


def index_of(spec: JobSpec, storage: Storage) -> tuple[Index, ...]:
    """The index of each source, by reading the tars."""
    indexes = []
    for source in spec.data.sources:
        shards = find_shards(source.urls, Folders(storage))
        scans = [scan_shard(shard, source, storage) for shard in shards]
        indexes.append(Index.of(source.name, canonical(source), shards, scans))
    return tuple(indexes)


def write_tokenizers(directory: RunDirectory, storage: Storage) -> None:
    storage.write(directory.tokenizer("text"), byte_tokenizer().to_bytes())


def write_run(run: Path, shards: Path, overrides: tuple[str, ...] = ()) -> TrainTask:
    """Writes what a driver would have written of a run at `run`: the spec, the plan, the index and the
    tokenizer. Returns the task of its first attempt."""
    storage, directory = Storage(S3()), RunDirectory(f"file://{run}")
    spec = loads(SPEC % shards, "tiny.yaml", overrides)
    indexes = index_of(spec, storage)
    assert spec.training.steps is not None
    plan = RunPlan(
        Layout(seed=spec.seed, global_batch=8, lanes=4, window=4, slots=(8,)),
        spec.training.steps,
        spec.experiment_hash(),
        fingerprint(indexes),
    )
    storage.write(directory.spec, yaml.safe_dump(spec.model_dump(mode="json")).encode())
    storage.write(directory.plan, plan.to_json())
    for index in indexes:
        storage.write(directory.index(index.source), to_parquet(index))
    write_tokenizers(directory, storage)
    return TrainTask(spec=spec, plan=plan, run=directory, attempt=1, resume_from=None)
