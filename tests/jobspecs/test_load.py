"""Files and texts -> specs: what can't be read, all faults at once, `--set`."""

from __future__ import annotations

import contextlib
import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic.fields import FieldInfo

import jobspecs.examples
from jobspecs.base import Section
from jobspecs.errors import SpecError
from jobspecs.fields import field_at, sections_at
from jobspecs.job import JobSpec
from jobspecs.load import dumps, load, loads

EXAMPLES = sorted(Path(jobspecs.examples.__path__[0]).glob("*.yaml"))

Wrong = Callable[..., list[str]]


def refusal(path: str | Path) -> str:
    with pytest.raises(SpecError) as caught:
        load(path)
    return str(caught.value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_shipped_examples_load(path: Path) -> None:
    assert load(path) == load(str(path)) == loads(path.read_text(encoding="utf-8"))


def test_no_such_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.yaml") == (
        f"1 fault in the spec\n  {tmp_path}/absent.yaml: can't be read: No such file or directory\n"
        "      Give the path of a YAML file."
    )
    assert f"{tmp_path}: can't be read: Is a directory" in refusal(str(tmp_path))


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes("name: café".encode("latin-1"))
    assert "job.yaml: can't be read: it is not UTF-8 text" in refusal(tmp_path / "job.yaml")


def test_the_name_of_the_file_stands_in_the_faults(tmp_path: Path, example: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(example.replace("steps: 400", "stepz: 400"), encoding="utf-8")
    assert f"{path}:" in refusal(path)


def test_not_yaml(wrong: Wrong, example: str) -> None:
    faults = wrong(example + "\n\tx: 1\n")
    assert len(faults) == 1
    assert "not YAML" in faults[0]


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "12"])
def test_not_a_mapping(wrong: Wrong, text: str) -> None:
    assert wrong(text) == ["job.yaml:1: a spec is a mapping of `key: value` lines\n    `tandem init` shows examples."]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}"])
def test_an_empty_file_lacks_each_required_section(wrong: Wrong, text: str) -> None:
    assert wrong(text) == [
        "job.yaml:1 (apiVersion): 'apiVersion' is missing\n    Version of this language: `tandem/v1`.",
        "job.yaml:1 (name): 'name' is missing\n    Names the run directory, `<storage.root>/<name>`.",
        "job.yaml:1 (objective): 'objective' is missing\n    What is contrasted with what.",
        "job.yaml:1 (data): 'data' is missing\n    Which samples, and how they become tensors.",
        "job.yaml:1 (model): 'model' is missing\n    The towers.",
        "job.yaml:1 (training): 'training' is missing\n    Batch, length, optimizer.",
    ]


def test_all_faults_at_once(example: str) -> None:
    text = example.replace("seed: 0", "seed: -1\nseed: x").replace("patch: 8", "patch: 8.5, pacth: 8")
    with pytest.raises(SpecError) as caught:
        loads(text, "job.yaml", ("training.stepz=1", "bad", "cluster.workers=two"))
    line = example.splitlines().index("seed: 0") + 1
    image = next(number for number, line in enumerate(text.splitlines(), 1) if "pacth" in line)
    assert str(caught.value).splitlines()[0] == "7 faults in the spec"
    columns = [text.splitlines()[image - 1].index(word) + 1 for word in ("8.5", "pacth")]
    assert [fault.where for fault in caught.value.faults] == [
        f"job.yaml:{line + 1}:1 (seed)",
        f"job.yaml:{line + 1}:7 (seed)",
        f"job.yaml:{image}:{columns[0]} (model.image.patch)",
        f"job.yaml:{image}:{columns[1]} (model.image.pacth)",
        "--set bad",
        "--set training.stepz",
        "--set cluster.workers",
    ]


def test_overrides(example: str) -> None:
    spec = loads(
        example,
        overrides=(
            "training.steps=7",
            "training.schedule.warmup_steps=3",
            " name =other",
            "training.optimizer.learning_rate=2e-4",
            "data.image.crop_scale=[0.5, 1]",
            "data.image.crop_scale.1=0.75",
            "evaluations.0.data={urls: [x=y.tar]}",
            "evaluations.0.templates.2='{}'",
            "storage.s3.region=eu-west-1",
            "cluster.workers=3",
            "cluster.workers=4",
        ),
    )
    assert (spec.training.steps, spec.name, spec.training.optimizer.learning_rate) == (7, "other", 2e-4)
    assert spec.data.image.crop_scale == [0.5, 0.75]
    assert spec.evaluations[0].data.urls == ["x=y.tar"]
    assert spec.evaluations[0].templates[1:] == ["a scan of the number {}", "{}"]
    assert (spec.storage.s3.region, spec.cluster.workers) == ("eu-west-1", 4)


def test_an_override_clears_a_field(example: str) -> None:
    spec = loads(example, overrides=("training.steps=", "training.passes=2"))
    assert (spec.training.steps, spec.training.passes) == (None, 2)


@pytest.mark.parametrize(
    ("override", "fault"),  # `--set ` in front of the fault is left out
    [
        ("steps", "steps: an override is path.to.field=value\n"
            "    For example --set training.steps=100."),
        ("=1", "=1: an override is path.to.field=value\n"
            "    For example --set training.steps=100."),
        ("a..b=1", "a..b=1: an override is path.to.field=value\n"
            "    For example --set training.steps=100."),
        (
            "training.steps=[1",
            "training.steps: the value can't be read: not YAML: expected ',' or ']', but got "
            "'<stream end>' (while parsing a flow sequence at line 1)"
            "\n    Quote it for YAML, and the whole for the shell.",
        ),
        (
            "storage.root=!!python/name:os.sep",
            "storage.root: the value can't be read: the tag !!python/name:os.sep "
            "has no meaning in a spec\n    Quote it for YAML, and the whole for the shell.",
        ),
        ("retry={max_attempts: 1, max_attempts: 2}",
            "retry (retry.max_attempts): the key stands here twice\n    Keep one."),
        ("data.image.crop_scale.2=1", "data.image.crop_scale.2: there is no data.image.crop_scale.2 in "
            "the spec\n    data.image.crop_scale is a list of 2, counted from 0."),
        ("evaluations.-1.name=x", "evaluations.-1.name: there is no evaluations.-1 in the spec"
            "\n    evaluations is a list of 1, counted from 0."),
        ("evaluations.².name=x", "evaluations.².name: there is no evaluations.² in the spec"
            "\n    evaluations is a list of 1, counted from 0."),
        ("evaluations.digits.name=x", "evaluations.digits.name: there is no evaluations.digits in the spec"
            "\n    evaluations is a list of 1, counted from 0."),
        ("name.first=x", "name.first: there is no name.first in the spec\n    name is a single value."),
        ("name.a.b=x", "name.a.b: there is no name.a in the spec\n    name is a single value."),
        ("training.steps=x", 'training.steps: should be a valid integer, given: "x"'),
        ("training.stepz=1", "training.stepz: unknown key 'stepz'\n    Did you mean 'steps'? "
            "Allowed here: global_batch, micro_batch, steps, passes, samples, precision, zero_stage, "
            "gradient_checkpointing, compile, optimizer, schedule, ema, max_grad_norm, health_every."),
        ("cluster.0=1", "cluster.0: unknown key '0'\n    Allowed here: "
            "workers, cpus_per_worker, gpus_per_worker, collective_timeout_seconds, wait_seconds, grow_every_seconds, "
            "kubernetes."),
        ("retri.max_attempts=1", "retri.max_attempts (retri): unknown key 'retri'\n    Did you mean "
            "'retry'? Allowed here: apiVersion, name, seed, objective, data, model, training, cluster, "
            "checkpoint, retry, evaluations, stop, mining, storage, tracking, deepspeed."),
        ("data.image={column: jpg, size: 32, flip: 2}",
            "data.image (data.image.flip): should be less than or equal to 1, given: 2"),
        ("training.steps=0\n", "training.steps: should be greater than or equal to 1, given: 0"),
    ],
)  # fmt: skip
def test_wrong_overrides(wrong: Wrong, example: str, override: str, fault: str) -> None:
    assert wrong(example, override) == [f"--set {fault}"]


def test_a_rule_between_sections_names_the_place_it_is_about(wrong: Wrong, example: str) -> None:
    """The value that was overridden is not the one that the rule points at."""
    line = next(n for n, text in enumerate(example.splitlines(), 1) if "size: 32" in text)
    assert wrong(example, "model.image.patch=5") == [
        f"job.yaml:{line} (data.image.size): size 32 is not a multiple of model.image.patch, 5"
    ]


def test_the_language_needs_none_of_the_machinery() -> None:
    probe = (
        "import sys, jobspecs.load; "
        "print(*{'torch', 'ray', 'boto3', 'numpy', 'deepspeed', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_what_is_written_down_reads_back_equal(path: Path) -> None:
    assert loads(dumps(load(path))) == load(path)


@given(st.text(min_size=1), st.sampled_from(["1e3", "0x1f", "true", "null", "2001-01-01", "~", "1_000", "="]))
def test_text_that_looks_like_something_else_reads_back_as_text(region: str, class_name: str) -> None:
    spec = load(EXAMPLES[0])
    evaluation = spec.evaluations[0].model_copy(update={"class_names": [class_name, "other"]})
    s3 = spec.storage.s3.model_copy(update={"region": region})
    storage = spec.storage.model_copy(update={"s3": s3})
    odd = spec.model_copy(update={"name": "1e3", "storage": storage, "evaluations": [evaluation]})
    assert loads(dumps(odd)) == odd


def can_be_null(field: FieldInfo | None) -> bool:
    return field is not None and NoneType in get_args(field.annotation)


def nullable(section: type[Section], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The fields at and below `section` that may be null, by path without the indices of lists."""
    for name, field in section.model_fields.items():
        if can_be_null(field):
            yield f"{above}{name}", field
        for each in sections_at(field.annotation):
            yield from nullable(each, f"{above}{name}.")


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def with_null(value: Any, path: tuple[str | int, ...]) -> Any:
    changed = copy.deepcopy(value)
    around = changed
    for key in path[:-1]:
        around = around[key]
    around[path[-1]] = None
    return changed


def test_every_field_that_is_null_reads_back_as_null(fulls: dict[str, dict[str, Any]]) -> None:
    """Many at once: all of one depth, but for those that the fields beside them can't do without."""
    seen = set()
    for full in fulls.values():
        paths = [path for path in places(full) if can_be_null(field_at(JobSpec, full, path))]
        for depth in {len(path) for path in paths}:
            value = full
            for path in (path for path in paths if len(path) == depth):
                with contextlib.suppress(ValidationError):
                    JobSpec.model_validate_json(json.dumps(with_null(value, path)))
                    value = with_null(value, path)
                    seen.add(".".join(key for key in path if isinstance(key, str)))
            spec = JobSpec.model_validate_json(json.dumps(value))
            again = loads(dumps(spec))
            assert again == spec
            assert again.experiment_hash() == spec.experiment_hash()
    meant = {path for path, field in nullable(JobSpec) if field.default is not None}
    assert {"checkpoint.every_steps", "mining.max_similarity_to_positive.relative"} <= meant <= seen
    assert len(seen) > 40


def test_a_null_is_written_down_where_the_default_is_another(fulls: dict[str, dict[str, Any]]) -> None:
    for full in fulls.values():
        spec = loads(json.dumps(full))
        assert yaml.safe_load(dumps(spec)) == spec.model_dump(mode="json", exclude_none=True), "no null is meant"
    text = dumps(loads(json.dumps(with_null(fulls["sigmoid"], ("checkpoint", "every_steps")))))
    assert [line for line in text.splitlines() if "null" in line] == ['  "every_steps": null']


def test_nulls_in_a_free_mapping_read_back(example: str) -> None:
    spec = loads(example, overrides=("deepspeed={zero_optimization: {offload_param: null}}",))
    assert loads(dumps(spec)) == spec
