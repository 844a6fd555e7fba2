"""What of a job is the experiment, its hash, and what makes another one of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from jobspecs.job import NOT_THE_EXPERIMENT, changed_fields
from jobspecs.load import loads

EXPERIMENT = {
    "seed": 1,
    "objective.logit_scale.init": 10.0,
    "objective.logit_scale.max": 50.0,
    "objective.logit_scale.learnable": False,
    "data.sources.0.name": "others",
    "data.image.column": "png",
    "data.image.size": 64,
    "data.image.crop_scale": [0.5, 1.0],
    "data.image.flip": 0.5,
    "data.image.mean": [0.5, 0.5, 0.4],
    "data.image.std": [0.5, 0.5, 0.4],
    "data.text.column": "caption",
    "data.text.context_length": 47,
    "data.shuffle_window": 1,
    "data.lanes": 64,
    "model.image.width": 48,
    "model.image.layers": 1,
    "model.image.heads": 2,
    "model.image.mlp_ratio": 2,
    "model.image.patch": 16,
    "model.text.width": 48,
    "model.text.layers": 1,
    "model.text.heads": 2,
    "model.text.mlp_ratio": 2,
    "model.embedding_dim": 32,
    "training.global_batch": 256,
    "training.steps": 401,
    "training.precision": "bf16",
    "training.optimizer.learning_rate": 2e-3,
    "training.optimizer.betas": [0.9, 0.95],
    "training.optimizer.eps": 1e-8,
    "training.optimizer.weight_decay": 0.0,
    "training.schedule.warmup_steps": 41,
    "training.schedule.final_fraction": 0.1,
    "training.max_grad_norm": 2.0,
}
"""Another value for each field of the experiment."""

ONE_VALUE = {
    "objective.kind",
    "objective.loss",
    "data.text.tokenizer.kind",
    "model.kind",
    "training.optimizer.kind",
    "training.schedule.kind",
}
"""Fields that have one allowed value so far."""

OTHER_LENGTHS = {"training.passes", "training.samples"}

FREE = {
    "name": "another",
    "cluster.workers": 3,
    "cluster.cpus_per_worker": 2,
    "cluster.gpus_per_worker": 1,
    "cluster.collective_timeout_seconds": 10,
    "checkpoint.every_steps": 1,
    "checkpoint.keep_last": 1,
    "retry.max_attempts": 1,
    "retry.delay_seconds": 0,
    "evaluations": [],
    "storage.root": "s3://bucket/runs",
    "storage.s3.endpoint": "http://other:9000",
    "storage.s3.region": "other",
    "data.loader.processes": 5,
    "data.loader.prefetch": 5,
    "data.max_bad_fraction": 0.5,
    "data.sources.0.urls": ["s3://bucket/moved/{00000..00003}.tar"],
    "training.zero_stage": 0,
}
"""Another value for each field that a resumed run may change."""


def test_every_field_is_tried_here(full: dict[str, Any]) -> None:
    experiment = loads(json.dumps(full)).experiment()
    assert experiment.keys() == EXPERIMENT.keys() | ONE_VALUE | OTHER_LENGTHS
    for pattern in set(NOT_THE_EXPERIMENT) - {"apiVersion"}:
        start = pattern.replace("*", "0")
        assert any(path == start or path.startswith(f"{start}.") for path in FREE), pattern


@pytest.mark.parametrize("path", EXPERIMENT)
def test_a_field_of_the_experiment_changes_the_hash(example: str, path: str) -> None:
    before = loads(example)
    after = loads(example, overrides=(f"{path}={json.dumps(EXPERIMENT[path])}",))
    assert before.experiment_hash() != after.experiment_hash()
    assert changed_fields(before, after) == [f"{path}: {before.experiment()[path]} -> {EXPERIMENT[path]}"]


@pytest.mark.parametrize("path", FREE)
def test_a_field_that_is_none_of_it_does_not(example: str, path: str) -> None:
    before, after = loads(example), loads(example, overrides=(f"{path}={json.dumps(FREE[path])}",))
    assert before != after
    assert before.experiment_hash() == after.experiment_hash()
    assert changed_fields(before, after) == []


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
        "  text: {width: 96, layers: 3, heads: 4}", "  text: {width: &w 96, layers: 3, heads: 4}"
    ),
    "quotes": lambda text, spec: text.replace("name: digits-clip", 'name: "digits-clip"'),
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
