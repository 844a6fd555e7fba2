"""A spec as text, one that has every field of the language, and what is wrong with a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import jobspecs.job
from jobspecs.errors import SpecError
from jobspecs.load import loads

EXAMPLE = """\
# A spec of the tests' own: the shipped examples may be tuned.
apiVersion: tandem/v1
name: digits-clip
seed: 0

objective:
  kind: image_text
  loss: infonce
  logit_scale: {init: 14.3, max: 100}

data:
  sources:
    - name: digits
      urls: ["data/digits/train/{00000..00003}.tar"]
  image: {column: jpg, size: 32, crop_scale: [0.7, 1.0]}
  text: {column: txt, tokenizer: {kind: bytes}, context_length: 48}

model:
  image: {kind: transformer, width: 96, layers: 4, heads: 4, patch: 8}
  text: {kind: transformer, width: 96, layers: 3, heads: 4}
  embedding_dim: 64

training:
  global_batch: 128
  steps: 400
  precision: fp32
  optimizer: {kind: adamw, learning_rate: 1e-3, weight_decay: 0.1}
  schedule: {kind: cosine, warmup_steps: 40}

cluster: {workers: 2}
checkpoint: {every_steps: 100}

evaluations:
  - kind: zero_shot
    name: held-out-digits
    data: {urls: ["data/digits/test/*.tar"]}
    class_names: [zero, one, two, three, four, five, six, seven, eight, nine]
    templates: ["a photo of the digit {}", "a scan of the number {}", "handwritten {}"]
"""


@pytest.fixture(scope="session")
def example() -> str:
    """A spec that is right."""
    return EXAMPLE


MORE = (
    """data.sources=
      - {name: digits, urls: ["data/digits/train/{00000..00003}.tar"], weight: 3}
      - name: letters
        urls: ["data/letters/*.tar"]
        weight: 1
        filters: [{field: clip.similarity, at_least: 0.28, at_most: 1, one_of: [a, 1, true]}]
        metadata: meta.json
        index: data/letters.index""",
    "data.image.color={}",
    "data.text={column: json, field: captions, tokenizer: {kind: bpe}}",
    "data.query.tokenizer={kind: pretrained, name: openai/clip-vit-base-patch32, revision: main}",
    "data.document={}",
    "model.query={kind: pretrained, name: openai/clip-vit-base-patch32, revision: main}",
    "model.document={kind: preset, name: BERT-base}",
    "data.negatives={}",
    "data.weight={field: quality}",
    "data.loader.cache={folder: /scratch/tandem, max_size: 200 GiB}",
    "storage.s3={endpoint: 'http://minio:9000', region: eu-west-1}",
)
"""What the example leaves out."""


@pytest.fixture
def full(example: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A spec that has every field of the language, all its defaults written out.

    No objective contrasts all columns: as long as this fixture is in use, `image_text` does.
    """
    columns = ("image", "text", "query", "document", "negatives")
    monkeypatch.setattr(jobspecs.job, "_COLUMNS", {"image_text": columns})
    spec: dict[str, Any] = json.loads(loads(example, overrides=MORE).model_dump_json())
    spec["evaluations"].append({"kind": "retrieval", "name": "pairs", "data": {"urls": ["a.tar"]}, "batch": 8})
    on_features = {
        "data": {"urls": ["a.tar"]},
        "batch": 8,
        "train": {"urls": ["b.tar"]},
        "features": "backbone",
        "label_column": "json",
        "label_field": "label",
    }
    spec["evaluations"].append({"kind": "knn", "name": "near", "k": 20, "temperature": 0.07} | on_features)
    spec["evaluations"].append({"kind": "linear_probe", "name": "probe"} | on_features)
    return spec


@pytest.fixture(scope="session")
def wrong() -> Callable[..., list[str]]:
    """`wrong(text, *overrides)`: the faults of a spec, each as it is printed; none if it is right."""

    def faults(text: str, *overrides: str) -> list[str]:
        try:
            loads(text, "job.yaml", overrides)
        except SpecError as error:
            return [str(fault) for fault in error.faults]
        return []

    return faults
