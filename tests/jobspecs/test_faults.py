"""The words of each fault. Every message is tried once; where it stands is tried for all fields in
test_schema.py."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from jobspecs.errors import Fault, SpecError
from jobspecs.load import loads
from jobspecs.places import Place

Wrong = Callable[..., list[str]]
FullWith = Callable[[str], dict[str, Any]]
NAME = "should be 1 to 63 lower-case letters, digits, '-', '_' or '.', a letter or digit first and last"
COLUMN = (
    "should be an extension without its dot (letters, digits, '_', '.' or '-'), or several parted by ';', as in jpg;png"
)
FIELD = "should be the name of a field in the JSON, or several parted by '.', as in clip.similarity"
SIZE = "should be a number of bytes, or a size in B, KiB, MiB, GiB or TiB such as '200 GiB'"
VALUE = "should be a valid string, a valid integer or true or false"
WORKERS = "should be a valid integer, or a range such as {min: 2, max: 8}"
ENDPOINT = "should be http:// or https://, a host, and a port where it needs one, as in http://minio:9000"


def put(spec: dict[str, Any], path: str, value: object) -> str:
    """The text of `spec` with `value` at `path`."""
    spec = copy.deepcopy(spec)
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    here: Any = spec
    for part in parents:
        here = here[part]
    here[last] = value
    return json.dumps(spec, indent=2)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("name", "A b", f'{NAME}, given: "A b"'),
        ("name", "a" * 64, f'{NAME}, given: "{"a" * 64}"'),
        ("name", "-a", f'{NAME}, given: "-a"'),
        ("name", "a\n", f'{NAME}, given: "a\\n"'),
        ("name", "", f'{NAME}, given: ""'),
        ("name", 12, "should be a valid string, given: 12\n    Quotes make it text."),
        ("name", None, "should be a valid string, given: null"),
        ("name", "Z" * 100, f'{NAME}, given: "{"Z" * 76}...'),
        ("data.image.column", ".jpg; png", f'{COLUMN}, given: ".jpg; png"'),
        ("data.image.column", "jpg;.png", f'{COLUMN}, given: "jpg;.png"'),
        ("storage.s3.endpoint", "minio:9000", f'{ENDPOINT}, given: "minio:9000"'),
        ("storage.s3.endpoint", "http://me:secret@minio",
            "a user or password in a URL has no place in a spec\n"
            "    Specs are kept and shown. Credentials come from the environment or the cloud's role: "
            "see SECURITY.md."),
        ("storage.s3.endpoint", "http://minio:x", f'{ENDPOINT}, given: "http://minio:x"'),
        ("storage.s3.endpoint", "http://minio/path", f'{ENDPOINT}, given: "http://minio/path"'),
        ("storage.root", "", 'should have at least 1 character, given: ""'),
        ("seed", "x", 'should be a valid integer, given: "x"'),
        ("seed", "12", 'should be a valid integer, given: "12"\n'
            "    A number has no quotes, and no 0 before its digits."),
        ("seed", 1000.0, "should be a valid integer, given: 1000.0\n    Write 1000."),
        ("seed", 1.5, "should be a valid integer, given: 1.5"),
        ("seed", True, "should be a valid integer, given: true"),
        ("seed", -1, "should be greater than or equal to 0, given: -1"),
        ("data.lanes", 5.5, "should be a valid integer or 'auto', given: 5.5"),
        ("data.lanes", 0, "should be greater than or equal to 1 or 'auto', given: 0"),
        ("data.lanes", "aut", "should be a valid integer or 'auto', given: \"aut\"\n"
            "    Did you mean 'auto'?"),
        ("data.lanes", [1], "should be a valid integer or 'auto', given: [1]"),
        ("training.precision", "f16", "should be 'fp32', 'bf16' or 'fp16', given: \"f16\"\n"
            "    Did you mean 'fp16'?"),
        ("training.precision", 16, "should be 'fp32', 'bf16' or 'fp16', given: 16"),
        ("training.micro_batch", "aut", "should be a valid integer or 'auto', given: \"aut\"\n"
            "    Did you mean 'auto'?"),
        ("apiVersion", "tandem/v2", "this Tandem reads tandem/v1, given: tandem/v2\n"
            "    Install a Tandem that knows tandem/v2, or write the spec in tandem/v1."),
        ("apiVersion", "tandem/1", "should be 'tandem/v1', given: \"tandem/1\"\n"
            "    Did you mean 'tandem/v1'?"),
        ("training.zero_stage", 4, "should be less than or equal to 3, given: 4"),
        ("training.zero_stage", True, "should be a valid integer, given: true"),
        ("training.global_batch", 1, "should be greater than or equal to 2, given: 1"),
        ("training.optimizer.learning_rate", 0, "should be greater than 0, given: 0"),
        ("training.optimizer.learning_rate", "1e-3", 'should be a valid number, given: "1e-3"\n'
            "    A number has no quotes, and no 0 before its digits."),
        ("training.optimizer.learning_rate", True, "should be a valid number, given: true"),
        ("training.optimizer.betas", [0.9, 1.0], "should be less than 1, given: 1.0"),
        ("training.optimizer.betas", [0.9], "should have at least 2 items, given: [0.9]"),
        ("training.optimizer.betas", [0.9, 0.9, 0.9], "should have at most 2 items, given: [0.9, 0.9, 0.9]"),
        ("data.sources", [], "should have at least 1 item, given: []"),
        ("data.sources.0.urls", "a.tar", 'should be a list, given: "a.tar"'),
        ("data.sources.0.weight", 0, "should be greater than 0, given: 0"),
        ("data.sources.1.filters.0.field", "a..b", f'{FIELD}, given: "a..b"'),
        ("data.sources.1.filters.0.field", "a b", f'{FIELD}, given: "a b"'),
        ("data.sources.1.filters.0.at_least", "x", 'should be a valid number, given: "x"'),
        ("data.sources.1.filters.0.one_of", [], "should have at least 1 item, given: []"),
        ("data.sources.1.filters.0.one_of", "a", 'should be a list, given: "a"'),
        ("data.sources.1.filters.0.one_of", ["a", 0.5], f"{VALUE}, given: 0.5"),
        ("data.sources.1.filters.0.one_of", [1.0], f"{VALUE}, given: 1.0\n    Write 1."),
        ("data.sources.1.filters.0.one_of", [None], f"{VALUE}, given: null"),
        ("data.sources.1.metadata", ".json", f'{COLUMN}, given: ".json"'),
        ("data.image.views", 0, "should be greater than or equal to 1, given: 0"),
        ("data.image.views", 3, "should be less than or equal to 2, given: 3"),
        ("data.image.crop_ratio", [1], "should have at least 2 items, given: [1]"),
        ("data.image.max_pixels", 0, "should be greater than or equal to 1, given: 0"),
        ("data.image.color", True, "should be a mapping, `key: value`, given: true"),
        ("data.image.color.grayscale", 1.5, "should be less than or equal to 1, given: 1.5"),
        ("data.image.color.jitter.probability", 1.5, "should be less than or equal to 1, given: 1.5"),
        ("data.image.color.jitter.brightness", -0.5, "should be greater than or equal to 0, given: -0.5"),
        ("data.image.color.jitter.hue", 0.6, "should be less than or equal to 0.5, given: 0.6"),
        ("data.image.color.blur.probability", -1, "should be greater than or equal to 0, given: -1"),
        ("data.image.color.blur.sigma", [1, 2, 3], "should have at most 2 items, given: [1, 2, 3]"),
        ("cluster.workers", 0, "should be greater than or equal to 1, given: 0"),
        ("cluster.workers", 1.5, f"{WORKERS}, given: 1.5"),
        ("cluster.workers", "2", f'{WORKERS}, given: "2"'),
        ("cluster.workers", {"min": 0, "max": 2}, "should be greater than or equal to 1, given: 0"),
        ("cluster.collective_timeout_seconds", 1800, "should be less than 1800, given: 1800"),
        ("cluster.wait_seconds", -1, "should be greater than or equal to 0, given: -1"),
        ("cluster.grow_every_seconds", 0, "should be greater than 0, given: 0"),
        ("retry.max_failures_without_commit", 0, "should be greater than or equal to 1, given: 0"),
        ("retry.hang_after_seconds", 1, "should be greater than or equal to 5, given: 1"),
        ("retry.storage.retries", -1, "should be greater than or equal to 0, given: -1"),
        ("data.text.field", "", f'{FIELD}, given: ""'),
        ("data.text.context_length", 2, "should be greater than or equal to 3, given: 2"),
        ("data.text.tokenizer.vocabulary", 259, "should be greater than or equal to 260, given: 259"),
        ("data.text.tokenizer.texts", 0, "should be greater than or equal to 1, given: 0"),
        ("data.text.tokenizer.name", "", 'should have at least 1 character, given: ""'),
        ("data.negatives.count", 0, "should be greater than or equal to 1, given: 0"),
        ("data.loader.cache.folder", "s3://bucket/cache",
            'should be a folder on a local disk, not a URI, given: "s3://bucket/cache"'),
        ("data.loader.cache.folder", "", 'should be a folder on a local disk, not a URI, given: ""'),
        ("data.loader.cache.max_size", "200 gib", f'{SIZE}, given: "200 gib"'),
        ("data.loader.cache.max_size", "1.5 TiB", f'{SIZE}, given: "1.5 TiB"'),
        ("data.loader.cache.max_size", "12", f'{SIZE}, given: "12"'),
        ("data.loader.cache.max_size", "1" * 70 + " B", f'{SIZE}, given: "{"1" * 70} B"'),
        ("data.loader.cache.max_size", 1.5, f"{SIZE}, given: 1.5"),
        ("data.loader.cache.max_size", True, f"{SIZE}, given: true"),
        ("data.loader.cache.max_size", None, f"{SIZE}, given: null"),
        ("data.loader.cache.max_size", "0 GiB", f'{SIZE}, given: "0 GiB"'),
        ("data.loader.cache.max_size", 0, "should be greater than or equal to 1, given: 0"),
        ("data.loader.cache.max_size", -1, "should be greater than or equal to 1, given: -1"),
        ("objective.logit_scale.learnable", "yes", 'should be true or false, given: "yes"'),
        ("training", None, "should be a mapping, `key: value`, given: null"),
        ("training.optimizer", "adamw", 'should be a mapping, `key: value`, given: "adamw"\n'
            "    Write {kind: adamw}."),
        ("training.schedule", "linear", 'should be a mapping, `key: value`, given: "linear"\n'
            "    Its kind is one of 'cosine', 'constant', 'rsqrt'."),
        ("objective", "image_text", 'should be a mapping, `key: value`, given: "image_text"\n'
            "    Write {kind: image_text}."),
        ("objective.loss", "InfoNCE", 'should be a mapping, `key: value`, given: "InfoNCE"\n'
            "    Its kind is one of 'infonce', 'siglip'."),
        ("evaluations.0", "zero_shot", 'should be a mapping, `key: value`, given: "zero_shot"\n'
            "    Write {kind: zero_shot, name: …, data: …}."),
    ],
)  # fmt: skip
def test_a_wrong_value(wrong: Wrong, full_with: FullWith, path: str, value: object, words: str) -> None:
    (fault,) = wrong(put(full_with(path), path, value))
    assert fault.partition("): ")[2] == words


@pytest.mark.parametrize(
    "endpoint", ["http://minio:9000", "https://s3.eu/", "http://127.0.0.1:9000", "http://[::1]:9000"]
)
def test_endpoints_that_are_right(wrong: Wrong, full: dict[str, Any], endpoint: str) -> None:
    assert wrong(put(full, "storage.s3.endpoint", endpoint)) == []


@pytest.mark.parametrize(("value", "shown"), [("1e999", "Infinity"), ("-1e999", "-Infinity"), (".nan", '".nan"')])
def test_neither_infinite_nor_nan(wrong: Wrong, example: str, value: str, shown: str) -> None:
    (fault,) = wrong(example, f"training.max_grad_norm={value}")
    assert fault.startswith("--set training.max_grad_norm: should be a ")
    assert fault.endswith(f" number, given: {shown}")


@pytest.mark.parametrize(
    ("path", "value", "place", "words"),
    [
        ("evaluations.1", {"kind": "retrieva", "name": "a"}, "evaluations.1.kind",
            "should be 'zero_shot', 'retrieval', 'knn', 'linear_probe', 'sts' or 'health', given: \"retrieva\"\n"
            "    Did you mean 'retrieval'?"),
        ("evaluations.1", {"kind": 5}, "evaluations.1.kind",
            "should be 'zero_shot', 'retrieval', 'knn', 'linear_probe', 'sts' or 'health', given: 5"),
        ("evaluations.1", {"name": "a"}, "evaluations.1.kind",
            "'kind' is missing\n    It is one of 'zero_shot', 'retrieval', 'knn', 'linear_probe', 'sts', 'health'."),
        ("evaluations.1", {"kind": "retrieval", "name": "a"}, "evaluations.1.data",
            "'data' is missing\n    What is scored."),
        ("evaluations.1.templates", ["{}"], "evaluations.1.templates",
            "unknown key 'templates'\n    It is a field of kind 'zero_shot'. Allowed here: name, data, batch, main, "
            "seed, every_checkpoints, at_end, best_only, resources, retries, timeout_seconds, kind, search."),
        ("evaluations.0.template", ["{}"], "evaluations.0.template",
            "unknown key 'template'\n    Did you mean 'templates'? "
            "Allowed here: name, data, batch, main, seed, every_checkpoints, at_end, best_only, resources, retries, "
            "timeout_seconds, kind, class_names, label_files, templates, label_column, label_field."),
        ("evaluations.0.templates", ["a {}", "b"], "evaluations.0.templates",
            "a template has one {} for the class name, 'b' has not"),
        ("evaluations.0.templates", ["{} {}"], "evaluations.0.templates",
            "a template has one {} for the class name, '{} {}' has not"),
        ("evaluations.0.class_names", ["a", "b", "a", "b", "c"], "evaluations.0.class_names",
            "class names are unique; more than once: a, b"),
        ("evaluations.1.name", "held-out-digits", "evaluations.1.name",
            "names are unique; evaluations.0 has the name 'held-out-digits' too"),
        ("data.image.crop_scale", [0.5, 0.2], "data.image.crop_scale",
            "crop_scale is [smallest, largest] with 0 < smallest <= largest, not [0.5, 0.2]"),
        ("data.image.crop_scale", [0, 1], "data.image.crop_scale",
            "crop_scale is [smallest, largest] with 0 < smallest <= largest, not [0.0, 1.0]"),
        ("data.image.size", 30, "data.image.size", "size 30 is not a multiple of model.image.patch, 8"),
        ("checkpoint.every_steps", None, "checkpoint.every_steps", "every_steps and every_minutes are both null\n"
            "    Give at least one: without commits between, a failure costs all of the work."),
        ("checkpoint.keep_best", {"evaluation": "nothing"}, "checkpoint.keep_best.evaluation",
            "there is no evaluation 'nothing'\n"
            "    Names of evaluations: held-out-digits."),
        ("stop", {"evaluation": "nothing", "patience": 2}, "stop.evaluation",
            "there is no evaluation 'nothing'\n"
            "    Names of evaluations: held-out-digits."),
        ("stop", {"evaluation": "held-out-digits", "patience": 0}, "stop.patience",
            "should be greater than or equal to 1, given: 0"),
        ("evaluations.2.best_only", "pairs", "evaluations.2.best_only",
            "evaluation 'pairs' does not compare checkpoints: it is done of one alone\n"
            "    Give pairs an every_checkpoints."),
        ("evaluations.1.at_end", False, "evaluations.1.at_end",
            "it would never be done: at_end is false and every_checkpoints null\n"
            "    Give one of them."),
        ("evaluations.1.every_checkpoints", 1, "evaluations.1.every_checkpoints",
            "every_checkpoints and best_only are both given\n"
            "    The best is known after training; give one of them."),
        ("data.lanes", 7, "training.global_batch", "global_batch 128 is not a multiple of data.lanes, 7"),
        ("model.text.heads", 5, "model.text.heads", "width 96 is not a multiple of heads 5"),
        ("objective.logit_scale.init", 200, "objective.logit_scale.init", "init 200 is above max 100"),
        ("training.steps", None, "training",
            "give exactly one of steps, passes and samples (found none of them)"),
        ("training.samples", 5, "training",
            "give exactly one of steps, passes and samples (found steps and samples)"),
        ("modèle de base", 1, "modèle de base",
            "unknown key 'modèle de base'\n    Allowed here: apiVersion, name, seed, objective, data, model, "
            "training, cluster, checkpoint, retry, evaluations, stop, mining, storage, tracking, deepspeed."),
        ("cluster.workers", {"min": 3, "max": 2}, "cluster.workers.min", "min 3 is above max, 2"),
        ("cluster.workers", {"min": 3}, "cluster.workers.max",
            "'max' is missing\n    Most ranks that the job takes."),
        ("cluster.workers", {"min": 1, "max": 2, "most": 2}, "cluster.workers.most",
            "unknown key 'most'\n    Allowed here: min, max."),
        ("cluster.max", 3, "cluster.max",
            "unknown key 'max'\n    It is a field of cluster.workers. Allowed here: workers, cpus_per_worker, "
            "gpus_per_worker, collective_timeout_seconds, wait_seconds, grow_every_seconds, kubernetes."),
        ("cluster.collective_timeout_seconds", 300, "cluster.collective_timeout_seconds",
            "collective_timeout_seconds 300 is not above retry.hang_after_seconds, 300\n"
            "    The ranks that wait would end the attempt before it is found which one they wait for. Raise it, or "
            "lower retry.hang_after_seconds."),
        ("retry.bug.delay_seconds", 301, "retry.bug.delay_seconds",
            "delay_seconds 301 is above max_delay_seconds, 300\n    Raise max_delay_seconds with it."),
        ("training.schedule", {"kind": "linear"}, "training.schedule.kind",
            "should be 'cosine', 'constant' or 'rsqrt', given: \"linear\""),
        ("training.schedule", {"kind": "rsqrt", "warmup_steps": 300, "cooldown_steps": 101},
            "training.schedule.cooldown_steps",
            "warmup_steps 300 and cooldown_steps 101 are more than training.steps, 400"),
    ],
)  # fmt: skip
def test_kinds_keys_and_rules(
    wrong: Wrong, full_with: FullWith, path: str, value: object, place: str, words: str
) -> None:
    (fault,) = wrong(put(full_with(path), path, value))
    where, _, said = fault.partition("): ")
    assert where.partition(" (")[2] == place
    assert said == words


def test_faults_in_print() -> None:
    one = Fault(Place("f", 1, 4, "a: 1"), "is wrong", "Do b.", "a")
    two = Fault(Place("f"), "too")
    assert str(SpecError((one,))) == (
        "1 fault in the spec\n  f:1:4 (a): is wrong\n      1 | a: 1\n        |    ^\n      Do b."
    )
    assert str(SpecError((one, two))).splitlines()[0] == "2 faults in the spec"


def test_auto_needs_forward_passes_in_which_a_rank_is_alone(full_with: FullWith) -> None:
    spec = full_with("training.micro_batch")
    spec["training"] |= {"micro_batch": "auto", "zero_stage": 3}
    with pytest.raises(SpecError) as error:
        loads(json.dumps(spec))
    assert [(fault.message, fault.remedy) for fault in error.value.faults] == [
        (
            "'auto' can't try sizes under zero_stage 3: a rank without memory would leave the others waiting",
            "State the rows, or use zero_stage 2.",
        )
    ]
