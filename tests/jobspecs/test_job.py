"""What of a job is the experiment, its hash, and what makes another one of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from jobspecs.identity import MEANINGS, Effect
from jobspecs.load import loads
from tests.jobspecs.conftest import changed_fields

FullWith = Callable[[str], dict[str, Any]]

EXPERIMENT = {
    "seed": 1,
    "objective.loss.label_smoothing": 0.1,
    "objective.loss.hardness": 0.5,
    "objective.loss.direction": "text_to_image",
    "objective.loss.bias.init": -5.0,
    "objective.loss.bias.learnable": False,
    "objective.matryoshka.dims": [32, 8],
    "objective.matryoshka.weights": [1.0, 1.0],
    "objective.false_negatives.margin": 0.2,
    "objective.false_negatives.equal": ["image"],
    "objective.wire_dtype": "fp16",
    "objective.logit_scale.init": 10.0,
    "objective.logit_scale.max": 50.0,
    "objective.logit_scale.learnable": False,
    "data.sources.0.name": "others",
    "data.sources.0.weight": 2.0,
    "data.sources.0.metadata": "other.json",
    "data.sources.1.name": "others",
    "data.sources.1.weight": 2.0,
    "data.sources.1.filters.0.field": "width",
    "data.sources.1.filters.0.at_least": 0.3,
    "data.sources.1.filters.0.at_most": None,
    "data.sources.1.filters.0.one_of": ["a", 1],
    "data.sources.1.metadata": "json",
    "data.image.column": "png",
    "data.image.size": 64,
    "data.image.crop_scale": [0.5, 1.0],
    "data.image.crop_ratio": [1.0, 1.0],
    "data.image.flip": 0.5,
    "data.image.color.jitter.probability": 0.5,
    "data.image.color.jitter.brightness": 0.4,
    "data.image.color.jitter.contrast": 0.4,
    "data.image.color.jitter.saturation": 0.4,
    "data.image.color.jitter.hue": 0.1,
    "data.image.color.grayscale": 0.0,
    "data.image.color.blur.probability": 0.1,
    "data.image.color.blur.sigma": [0.1, 1.0],
    "data.image.max_pixels": 1000,
    "data.image.mean": [0.5, 0.5, 0.4],
    "data.image.std": [0.5, 0.5, 0.4],
    "data.text.column": "meta.json",
    "data.text.field": "title",
    "data.text.tokenizer.vocabulary": 1000,
    "data.text.tokenizer.texts": 1000,
    "data.text.tokenizer.name": "tokenizers/mine",
    "data.text.tokenizer.revision": None,
    "data.text.context_length": 47,
    "data.text.prefix": "text: ",
    "data.query.column": "q.json",
    "data.query.context_length": 47,
    "data.query.prefix": "query: ",
    "data.document.column": "d.txt",
    "data.document.context_length": 47,
    "data.document.prefix": "document: ",
    "data.negatives.column": "json",
    "data.negatives.count": 7,
    "data.shuffle_window": 1,
    "data.lanes": 64,
    "data.weight.column": "meta.json",
    "data.weight.field": "other",
    "model.image.projection": "mlp",
    "model.image.frozen": True,
    "model.image.dropout": 0.1,
    "model.image.pooling": "cls",
    "model.image.width": 48,
    "model.image.layers": 1,
    "model.image.heads": 2,
    "model.image.mlp_ratio": 2,
    "model.image.patch": 16,
    "model.image.name": "towers/mine",
    "model.image.revision": None,
    "model.image.architecture": "dinov2",
    "model.image.settings.hidden_size": 48,
    "model.text.projection": "mlp",
    "model.text.frozen": True,
    "model.text.dropout": 0.1,
    "model.text.pooling": "mean",
    "model.text.width": 48,
    "model.text.layers": 1,
    "model.text.heads": 2,
    "model.text.mlp_ratio": 2,
    "model.text.name": "towers/mine",
    "model.text.revision": None,
    "model.query.projection": "mlp",
    "model.query.frozen": True,
    "model.query.dropout": 0.1,
    "model.query.pooling": "mean",
    "model.query.architecture": "qwen2",
    "model.query.settings.hidden_size": 48,
    "model.document.projection": "mlp",
    "model.document.frozen": True,
    "model.document.dropout": 0.1,
    "model.document.pooling": "mean",
    "model.document.name": "MiniLM-L6",
    "model.embedding_dim": 96,
    "training.global_batch": 256,
    "training.steps": 401,
    "training.precision": "bf16",
    "training.optimizer.learning_rate": 2e-3,
    "training.optimizer.betas": [0.9, 0.95],
    "training.optimizer.eps": 1e-8,
    "training.optimizer.weight_decay": 0.0,
    "training.schedule.warmup_steps": 41,
    "training.schedule.final_fraction": 0.1,
    "training.schedule.timescale": 100,
    "training.schedule.cooldown_steps": 100,
    "training.ema.decay": 0.999,
    "training.max_grad_norm": 2.0,
    # Of a job that mines for itself.
    "mining.model": "another-run",
    "mining.every_steps": 90,
    "mining.corpus": ["b.tar"],
    "mining.count": 9,
    "mining.ranks.first": 2,
    "mining.ranks.last": 90,
    "mining.max_similarity_to_positive.relative": None,
    "mining.max_similarity_to_positive.absolute": 9.0,
    "mining.sampling": "random",
    "mining.seed": 1,
}
"""Another value for each field of the experiment."""

NOT_ALONE = {
    "objective.kind",
    "objective.loss.kind",
    "data.image.views",
    "data.text.tokenizer.kind",
    "data.query.tokenizer.kind",
    "data.document.tokenizer.kind",
    "data.query.field",
    "data.document.field",
    "model.image.kind",
    "model.text.kind",
    "model.query.kind",
    "model.document.kind",
    "training.optimizer.kind",
    "training.schedule.kind",
    "mining.before_training",
}
"""Fields that change together with others."""

OPTIONAL_SECTIONS = {
    *(f"data.{name}" for name in ("image", "image.color", "text", "query", "document", "negatives", "weight")),
    *(f"model.{name}" for name in ("image", "text", "query", "document")),
    "objective.matryoshka",
    "training.ema",
}
"""Sections that are null in one of the specs in full."""

OTHER_LENGTHS = {"training.passes", "training.samples"}

FREE = {
    "name": "another",
    "cluster.workers": {"min": 1, "max": 3},
    "cluster.cpus_per_worker": 2,
    "cluster.gpus_per_worker": 1,
    "cluster.collective_timeout_seconds": 1000,
    "cluster.wait_seconds": 0,
    "cluster.grow_every_seconds": 1,
    "checkpoint.every_steps": 1,
    "checkpoint.every_minutes": 5,
    "checkpoint.keep_last": 1,
    "checkpoint.keep_best": {"evaluation": "held-out-digits", "count": 2},
    "checkpoint.keep_every": 7,
    "checkpoint.max_age_minutes": 5,
    "retry.max_attempts": 1,
    "retry.max_failures_without_commit": 1,
    "retry.hang_after_seconds": 10,
    "retry.bug.retries": 0,
    "retry.storage.delay_seconds": 0,
    "retry.preempted.max_delay_seconds": 1,
    "evaluations": [],
    "stop": {"evaluation": "held-out-digits", "patience": 9},
    "mining": {"count": 3},
    "storage.root": "s3://bucket/runs",
    "storage.s3.endpoint": "http://other:9000",
    "storage.s3.region": "other",
    "tracking.tensorboard": False,
    "tracking.mlflow.experiment": "other",
    "tracking.wandb": None,
    "data.loader.processes": 5,
    "data.loader.prefetch": 5,
    "data.loader.read_ahead": 0,
    "data.loader.cache": None,
    "data.loader.cache.folder": "/other",
    "data.loader.cache.max_size": "1 TiB",
    "data.max_bad_fraction": 0.5,
    "data.sources.0.urls": ["s3://bucket/moved/{00000..00003}.tar"],
    "data.sources.1.index": "s3://bucket/letters.index",
    "training.micro_batch": "auto",
    "training.zero_stage": 3,
    "training.gradient_checkpointing": True,
    "training.compile": True,
    "training.health_every": 1,
    "deepspeed.zero_optimization.reduce_bucket_size": 1000,
}
"""Another value for each field that a resumed run may change."""


def test_every_field_is_tried_here(fulls: dict[str, dict[str, Any]]) -> None:
    experiment = {path for full in fulls.values() for path in loads(json.dumps(full)).experiment()}
    assert experiment == EXPERIMENT.keys() | NOT_ALONE | OPTIONAL_SECTIONS | OTHER_LENGTHS
    for pattern in {meaning.pattern for meaning in MEANINGS if meaning.effect is not Effect.EXPERIMENT} - {
        "apiVersion"
    }:
        start = re.escape(pattern).replace(r"\*", r"\d+")
        assert any(re.match(rf"{start}(\.|$)", path) for path in FREE), pattern


@pytest.mark.parametrize("path", EXPERIMENT)
def test_a_field_of_the_experiment_changes_the_hash(full_with: FullWith, path: str) -> None:
    text = json.dumps(full_with(path))
    before, after = loads(text), loads(text, overrides=(f"{path}={json.dumps(EXPERIMENT[path])}",))
    assert before.experiment_hash() != after.experiment_hash()
    assert changed_fields(before, after) == [f"{path}: {before.experiment()[path]} -> {EXPERIMENT[path]}"]


@pytest.mark.parametrize("path", FREE)
def test_a_field_that_is_none_of_it_does_not(full: dict[str, Any], path: str) -> None:
    text = json.dumps(full)
    before, after = loads(text), loads(text, overrides=(f"{path}={json.dumps(FREE[path])}",))
    assert before != after
    assert before.experiment_hash() == after.experiment_hash()
    assert changed_fields(before, after) == []


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        (
            "objective.loss={kind: siglip}",
            [
                "objective.loss.bias.init: absent -> -10.0",
                "objective.loss.bias.learnable: absent -> True",
                "objective.loss.direction: both -> absent",
                "objective.loss.hardness: 0.0 -> absent",
                "objective.loss.kind: infonce -> siglip",
                "objective.loss.label_smoothing: 0.0 -> absent",
            ],
        ),
        (
            "objective.matryoshka={dims: [32]}",
            [
                "objective.matryoshka.dims: absent -> [32]",
            ],
        ),
        (
            "data.text.tokenizer={kind: bpe, texts: 9}",
            [
                "data.text.tokenizer.kind: bytes -> bpe",
                "data.text.tokenizer.texts: absent -> 9",
                "data.text.tokenizer.vocabulary: absent -> 16384",
            ],
        ),
        (
            "training.optimizer={kind: lamb, learning_rate: 1e-3, betas: [0.9, 0.98], weight_decay: 0.1}",
            ["training.optimizer.kind: adamw -> lamb"],
        ),
        (
            "training.schedule={kind: rsqrt, warmup_steps: 40}",
            [
                "training.schedule.cooldown_steps: absent -> 0",
                "training.schedule.final_fraction: 0.0 -> absent",
                "training.schedule.kind: cosine -> rsqrt",
                "training.schedule.timescale: absent -> 10000",
            ],
        ),
        ("deepspeed={communication_data_type: fp16}", ["deepspeed.communication_data_type: absent -> fp16"]),
        (
            "data.text={column: json, field: caption, context_length: 48}",
            ["data.text.column: txt -> json", "data.text.field: None -> caption"],
        ),
        (
            "data.sources.0.filters=[{field: width, at_least: 200}]",
            ["data.sources.0.filters.0.at_least: absent -> 200.0", "data.sources.0.filters.0.field: absent -> width"],
        ),
        (
            "data.image.color={jitter: {probability: 0}, blur: {probability: 0, sigma: [1, 1]}}",
            [
                "data.image.color.blur.probability: absent -> 0.0",
                "data.image.color.blur.sigma: absent -> [1.0, 1.0]",
                "data.image.color.grayscale: absent -> 0.2",
                "data.image.color.jitter.brightness: absent -> 0.8",
                "data.image.color.jitter.contrast: absent -> 0.8",
                "data.image.color.jitter.hue: absent -> 0.2",
                "data.image.color.jitter.probability: absent -> 0.0",
                "data.image.color.jitter.saturation: absent -> 0.8",
            ],
        ),
    ],
)
def test_a_section_more_changes_the_hash(example: str, override: str, changes: list[str]) -> None:
    before, after = loads(example), loads(example, overrides=(override,))
    assert before.experiment_hash() != after.experiment_hash()
    assert changed_fields(before, after) == changes


@pytest.mark.parametrize("path", sorted(OTHER_LENGTHS))
def test_another_length(example: str, path: str) -> None:
    before, after = loads(example), loads(example, overrides=("training.steps=null", f"{path}=3"))
    assert before.experiment_hash() != after.experiment_hash()
    assert changed_fields(before, after) == [f"{path}: None -> 3", "training.steps: 400 -> None"]


def test_the_fields_of_a_change_are_sorted(example: str) -> None:
    before, after = loads(example), loads(example, overrides=("seed=2", "data.lanes=32", "cluster.workers=1"))
    assert changed_fields(before, after) == ["data.lanes: auto -> 32", "seed: 0 -> 2"]


def reordered(value: Any) -> Any:
    """With the keys of each mapping in reverse."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


RESPELLED = {
    "comments and blank lines": lambda text, spec: "# new\n\n" + re.sub("#.*", "", text) + "\n# end\n",
    "as JSON": lambda text, spec: json.dumps(spec),
    "block style": lambda text, spec: yaml.safe_dump(spec, default_flow_style=False, sort_keys=False),
    "other order": lambda text, spec: yaml.safe_dump(reordered(spec), sort_keys=False),
    "whole numbers with a point": lambda text, spec: text.replace("max: 100", "max: 1.0e+2"),
    "other spelling of a float": lambda text, spec: text.replace("1e-3", "0.00100"),
    "an anchor": lambda text, spec: text.replace(
        "text: {kind: transformer, width: 96,", "text: {kind: transformer, width: &w 96,"
    ),
    "quotes": lambda text, spec: text.replace("name: digits-clip", 'name: "digits-clip"'),
    "defaults": lambda text, spec: text.replace("column: jpg", "column: jpg, views: 1, color: null, flip: 0"),
}


@pytest.mark.parametrize("how", RESPELLED)
def test_a_respelled_spec_is_the_same(example: str, how: str) -> None:
    spec = loads(example)
    text = RESPELLED[how](example, spec.model_dump(mode="json"))
    assert text != example
    assert loads(text) == spec
    assert loads(text).experiment_hash() == spec.experiment_hash()


def test_a_hash_is_a_sha256(example: str) -> None:
    assert re.fullmatch("[0-9a-f]{64}", loads(example).experiment_hash())
