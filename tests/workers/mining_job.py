"""A job of pairs of texts that mines for itself: before its first step by BM25, and every 3 of 7 steps by itself."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import yaml

from jobspecs.job import JobSpec
from jobspecs.load import loads
from tests.workers.tiny_job import index_of
from workers.data.demo_tar import TextPair, pack_shard
from workers.data.index import fingerprint
from workers.data.index_file import to_parquet
from workers.data.negatives import NegativesTable, TableFile, content_hash
from workers.data.negatives import to_parquet as negatives_to_parquet
from workers.data.order import Layout
from workers.data.tokenize import byte_tokenizer
from workers.mining.table import Found
from workers.run import RunDirectory, RunPlan
from workers.storage import Storage, join
from workers.train.task import TrainTask

SPEC = """
apiVersion: tandem/v1
name: mines
objective: {kind: text_text}
data:
  sources: [{name: pairs, urls: ["%s/*.tar"]}]
  query: {context_length: 24}
  document: {context_length: 24}
  negatives: {count: 2}
  lanes: 4
model:
  text: {kind: transformer, width: 32, layers: 1, heads: 2}
  embedding_dim: 16
training:
  global_batch: 8
  steps: 7
  precision: fp32
  optimizer: {kind: adamw, learning_rate: 1e-3}
  schedule: {kind: constant}
mining:
  model: bm25
  before_training: true
  every_steps: 3
  count: 3
  ranks: {last: 20}
  max_similarity_to_positive: {relative: null}
cluster: {collective_timeout_seconds: 400}
"""
LAYOUT = Layout(seed=0, global_batch=8, lanes=4, window=4, slots=(8,))
TOKENIZERS = {"query": byte_tokenizer(), "document": byte_tokenizer()}
SHARDS, EACH = 3, 15
PAIRS = [TextPair(f"what is {n}", f"it is {n} {n % 5}", ("in the tar",)) for n in range(SHARDS * EACH)]


def write_pairs(folder: Path) -> None:
    """The shards."""
    folder.mkdir(parents=True)
    for number in range(SHARDS):
        content = pack_shard(number, PAIRS[EACH * number : EACH * (number + 1)])
        (folder / f"{number:05d}.tar").write_bytes(content)


def spec_of(data: Path, *overrides: str) -> JobSpec:
    """The job on shards in the folder `data`."""
    return loads(SPEC % data, "mines.yaml", overrides)


def write_run(run: Path, data: Path, *overrides: str) -> TrainTask:
    """What a driver would have written of a run at `run`, and the task of its first attempt."""
    storage, directory, spec = Storage(), RunDirectory(f"file://{run}"), spec_of(data, *overrides)
    indexes = index_of(spec, storage)
    assert spec.training.steps is not None
    plan = RunPlan(LAYOUT, spec.training.steps, spec.experiment_hash(), fingerprint(indexes))
    storage.write(directory.spec, yaml.safe_dump(spec.model_dump(mode="json")).encode())
    storage.write(directory.plan, plan.to_json())
    for index in indexes:
        storage.write(directory.index(index.source), to_parquet(index))
    for name, tokenizer in TOKENIZERS.items():
        storage.write(directory.tokenizer(name), tokenizer.to_bytes())
    return TrainTask(spec=spec, plan=plan, run=directory, attempt=1, resume_from=None)


FOUND = Found(samples=45, mined=45, fewer=1, none=0, negatives=134)
"""What a manifest says of them."""


def negatives_of(version: int, shard: int, place: int) -> list[str]:
    """What `write_table` gives a sample: of some samples less than a batch takes, of some more."""
    return [f"v{version} {shard}-{place} {number}" for number in range(place % 4)]


def write_table(run: RunDirectory, version: int) -> NegativesTable:
    """A version of negatives that say where they belong."""
    storage, uri, files = Storage(), run.negatives(version), []
    for shard in range(SHARDS):
        negatives = {place: negatives_of(version, shard, place) for place in range(EACH)}
        name = f"pairs/{shard:05d}-000000000000.parquet"
        storage.write(join(uri, name), negatives_to_parquet(negatives))
        files.append(TableFile(name, content_hash(negatives)))
    table = NegativesTable(uri, version, {"pairs": tuple(files)})
    storage.write(join(uri, "manifest.json"), table.to_json(**asdict(FOUND)))
    return table
