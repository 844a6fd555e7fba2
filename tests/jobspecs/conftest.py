"""A spec as text, specs that have every field of the language between them, and what is wrong with a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from jobspecs.diff import differences
from jobspecs.errors import Fault, SpecError
from jobspecs.identity import Effect
from jobspecs.job import JobSpec
from jobspecs.load import loads

EXAMPLE = """\
# A spec of the tests' own: the shipped examples may be tuned.
apiVersion: tandem/v1
name: digits-clip
seed: 0

objective:
  kind: image_text
  loss: {kind: infonce}
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


ON_FEATURES = "data: {urls: [a.tar]}, train: {urls: [b.tar]}"
PREFIXES = "objective.matryoshka={dims: [16, 8], weights: [1, 0.5]}"
PRETRAINED = "{kind: pretrained, name: openai/clip-vit-base-patch32, revision: main}"
FULL = {
    "image_text": (
        "objective.false_negatives={margin: 0.1, equal: [text]}",
        PREFIXES,
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
        "data.weight={field: quality}",
        "data.loader.cache={folder: /scratch/tandem, max_size: 200 GiB}",
        "storage.s3={endpoint: 'http://minio:9000', region: eu-west-1}",
        "tracking={mlflow: {uri: 'sqlite:///runs.db', experiment: digits}, wandb: {project: digits, entity: us}}",
        "training.ema={}",
        f"""evaluations=
          - kind: zero_shot
            name: held-out-digits
            data: {{urls: ["data/digits/test/*.tar"]}}
            class_names: [zero, one, two]
            templates: ["a photo of the digit {{}}", "handwritten {{}}"]
            every_checkpoints: 2
            resources: {{}}
          - {{kind: retrieval, name: pairs, data: {{urls: [a.tar]}}, best_only: held-out-digits}}
          - {{kind: knn, name: near, {ON_FEATURES}}}
          - {{kind: linear_probe, name: probe, {ON_FEATURES}}}
          - kind: zero_shot
            name: from-files
            data: {{urls: [a.tar]}}
            label_files: [{{name: fine, uri: fine.json, templates: ["a {{}}"], label_field: fine}}]
          - {{kind: sts, name: similar, data: {{urls: [a.tar]}}, side: text}}
          - {{kind: health, name: spread, data: {{urls: [a.tar]}}, main: alignment}}""",
    ),
    "sigmoid": (
        "objective.false_negatives={margin: 0.1, equal: [image]}",
        PREFIXES,
        "objective.loss={kind: siglip}",
        f"data.text.tokenizer={PRETRAINED}",
        f"model.image={PRETRAINED}",
        f"model.text={PRETRAINED}",
        "training.optimizer={kind: lamb, learning_rate: 1e-3}",
        "training.schedule={kind: constant}",
        "checkpoint={every_minutes: 30, keep_every: 1000, keep_best: {evaluation: held-out-digits}}",
        "evaluations.0.every_checkpoints=1",
        "stop={evaluation: held-out-digits, patience: 5}",
        "cluster.workers={min: 2, max: 8}",
        """cluster.kubernetes=
          image: registry/tandem:cuda
          pull_secrets: [registry]
          node_selector: {pool: spot}
          tolerations: [{key: a}, {key: b, operator: Equal, value: c, effect: NoSchedule}]
          secrets: [aws, hub]
          service_account: trainer
          token_secret: ray-token
          claims: [{claim: datasets, path: /data}]
          queue: research
          monitoring_namespace: monitoring""",
    ),
    "two_view": (
        "objective.kind=two_view",
        "objective.loss={kind: ntxent}",
        "objective.false_negatives={margin: 0.1, equal: [image]}",
        "data.image.views=2",
        "data.text=",
        "model.image={kind: preset, name: ViT-B/32}",
        "model.text=",
        "training.schedule={kind: rsqrt}",
        "evaluations=[]",
    ),
    "text_text": (
        "objective.kind=text_text",
        "objective.false_negatives={margin: 0.1, equal: [query]}",
        "data.image=",
        "data.text=",
        "data.query={}",
        "data.document={}",
        "data.negatives={}",
        "model.image=",
        "model.text=",
        "model.query={kind: config, architecture: bert, settings: {hidden_size: 96}}",
        "model.document={kind: preset, name: BERT-base}",
        "evaluations=[]",
    ),
    "mines": (
        "objective.kind=text_text",
        "data.image=",
        "data.text=",
        "data.query={}",
        "data.document={}",
        "data.negatives={}",
        "model.image=",
        """mining={model: bm25, before_training: true, every_steps: 100, corpus: [a.tar],
            max_similarity_to_positive: {absolute: 9.5}}""",
        "evaluations=[]",
    ),
    "frozen": (
        "objective.false_negatives={margin: 0.1, equal: [text]}",
        "model.image={kind: config, architecture: vit, settings: {hidden_size: 96}}",
        "model.text.frozen=true",
        "evaluations=[]",
    ),
}
"""Overrides of the example: together these specs have every field of every section (test_schema.py counts them)."""


@pytest.fixture(scope="session")
def texts_in_full(example: str) -> dict[str, str]:
    """The specs in full by name, all their defaults written out, as JSON."""
    return {name: loads(example, overrides=more).model_dump_json() for name, more in FULL.items()}


@pytest.fixture
def fulls(texts_in_full: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The specs in full by name; a test may change its own."""
    return {name: json.loads(text) for name, text in texts_in_full.items()}


@pytest.fixture
def full(fulls: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A spec in full that has all of the common sections."""
    return fulls["image_text"]


@pytest.fixture
def full_with(fulls: dict[str, dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    """`full_with(path)`: the first spec in full that has a value at the dotted path, or a section around it."""

    def find(path: str) -> dict[str, Any]:
        keys = path.split(".")
        for wanted in (keys, keys[:-1]):
            for spec in fulls.values():
                if _holds(spec, wanted):
                    return spec
        raise LookupError(path)

    return find


def _holds(value: Any, keys: list[str]) -> bool:
    for key in keys:
        if isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            return False
    return value is not None


@pytest.fixture(scope="session")
def wrong() -> Callable[..., list[str]]:
    """`wrong(text, *overrides)`: the faults of a spec, `job.yaml:12 (path): words`, and its remedy on the next line;
    none if it is right. Columns and the line that is shown are those of test_places.py."""

    def faults(text: str, *overrides: str) -> list[str]:
        return [in_words(fault) for fault in faults_in(text, *overrides)]

    return faults


def faults_in(text: str, *overrides: str) -> tuple[Fault, ...]:
    """The faults of a spec; of each the line that it shows is the one of its place."""
    try:
        loads(text, "job.yaml", overrides, environment={})
    except SpecError as error:
        for fault in error.faults:
            check_shown(fault, text)
        return error.faults
    return ()


def check_shown(fault: Fault, text: str) -> None:
    place = fault.place
    if place.line:
        assert place.text == text.split("\n")[place.line - 1]
        assert 1 <= place.column <= len(place.text) + 1


def in_words(fault: Fault) -> str:
    where = fault.where.replace(f":{fault.place.line}:{fault.place.column}", f":{fault.place.line}", 1)
    return f"{where}: {fault.message}" + (f"\n    {fault.remedy}" if fault.remedy else "")


def changed_fields(before: JobSpec, after: JobSpec) -> list[str]:
    """What makes `after` another experiment."""
    return [str(each) for each in differences(before, after) if each.meaning.effect is Effect.EXPERIMENT]
