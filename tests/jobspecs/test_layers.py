"""What is laid over what: files over files, the environment's values in them, `--set` over all; older versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobspecs.environment import escape, resolve
from jobspecs.errors import SpecError
from jobspecs.job import JobSpec
from jobspecs.load import dumps, load, loads
from jobspecs.versions import Version, migrate
from jobspecs.yaml_places import parse
from tests.jobspecs.conftest import EXAMPLE

# --- extends ------------------------------------------------------------------------------------------


def laid_over(tmp_path: Path, text: str, *overrides: str, base: str = EXAMPLE) -> JobSpec:
    (tmp_path / "specs").mkdir()
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "specs" / "job.yaml").write_text(f"extends: ../base.yaml\n{text}")
    return load(tmp_path / "specs" / "job.yaml", overrides)


def test_mappings_are_merged_and_the_rest_is_replaced(tmp_path: Path) -> None:
    spec = laid_over(
        tmp_path,
        """
name: other
training: {schedule: {warmup_steps: 7}}
data:
  image: {crop_scale: [0.1, 0.2]}
evaluations: []
""",
        "training.steps=9",
    )
    same = loads(
        EXAMPLE,
        overrides=(
            "name=other",
            "training.schedule.warmup_steps=7",
            "data.image.crop_scale=[0.1, 0.2]",
            "evaluations=[]",
            "training.steps=9",
        ),
    )
    assert spec == same


def test_null_takes_a_value_away(tmp_path: Path) -> None:
    spec = laid_over(tmp_path, "training: {ema: null}", base=EXAMPLE.replace("  steps: 400", "  steps: 400\n  ema: {}"))
    assert spec.training.ema is None


def test_a_section_of_another_kind_replaces_the_whole(tmp_path: Path) -> None:
    spec = laid_over(tmp_path, "objective: {loss: {kind: siglip}}\ntraining: {schedule: {kind: constant}}")
    assert (spec.objective.loss.kind, spec.training.schedule.warmup_steps) == ("siglip", 0)
    assert spec.objective.logit_scale.init == 14.3


@pytest.mark.parametrize("length", ["passes: 3", "samples: 12.8M"])
def test_of_fields_that_exclude_each_other_the_upper_stays(tmp_path: Path, length: str) -> None:
    name, _, value = length.partition(": ")
    training = laid_over(tmp_path, f"training: {{{length}}}").training
    assert (training.steps, getattr(training, name)) == (None, 12_800_000 if value == "12.8M" else 3)
    training = loads(EXAMPLE, overrides=(f"training.{name}={value}",)).training
    assert (training.steps, getattr(training, name)) == (None, 12_800_000 if value == "12.8M" else 3)


def test_two_overrides_that_exclude_each_other_are_a_fault() -> None:
    with pytest.raises(SpecError, match="found passes and samples"):
        loads(EXAMPLE, overrides=("training.passes=3", "training.samples=5"))


def test_a_file_that_extends_one_that_extends_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(EXAMPLE)
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nseed: 1\nname: b\n")
    (tmp_path / "c.yaml").write_text("extends: b.yaml\nseed: 2\n")
    assert (load(tmp_path / "c.yaml").seed, load(tmp_path / "c.yaml").name) == (2, "b")


def test_a_circle(tmp_path: Path) -> None:
    for one, other in ("ab", "bc", "ca"):
        (tmp_path / f"{one}.yaml").write_text(f"extends: {other}.yaml\n")
    with pytest.raises(
        SpecError, match=r"c\.yaml:1:10 \(extends\): .*circle: a\.yaml -> b\.yaml -> c\.yaml -> a\.yaml"
    ):
        load(tmp_path / "a.yaml")


def test_a_base_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(EXAMPLE)
    (tmp_path / "job.yaml").write_text("extends: bases.yaml\nname: a\nname: b\n")
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "job.yaml")
    twice, absent = caught.value.faults
    assert twice.message == "the key stands here twice"
    assert absent.message == f"can't be read: {tmp_path}/bases.yaml: No such file or directory"
    assert absent.remedy == "Did you mean 'base.yaml'? The path is relative to the file that says it."


# --- the environment ----------------------------------------------------------------------------------


def value(text: str, **environment: str) -> Any:
    document = parse(f"a: {text}\n", "f", environment)
    assert not document.faults, document.faults[0]
    return document.value["a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${N}", 12),
        ("'${N}'", 12),
        ("${N}0", 120),
        ("'${N}0'", "120"),
        ("${ABSENT:-1e-3}", 1e-3),
        ("${EMPTY:-true}", True),
        ("${ABSENT:-}", ""),
        ("${EMPTY}", ""),
        ("s3://${BUCKET}/${ABSENT:-runs}", "s3://b/runs"),
        ("$${N}", "${N}"),
        ("a $N ${N}%", "a $N 12%"),
        ("[x, '${N}']", ["x", 12]),
        ("|\n  ${BUCKET}\n", "b\n"),
    ],
)
def test_values_from_the_environment(text: str, expected: object) -> None:
    got = value(text, N="12", BUCKET="b", EMPTY="")
    assert (got, type(got)) == (expected, type(expected))


def test_a_field_that_wants_a_text_takes_the_text() -> None:
    text = EXAMPLE.replace("name: digits-clip", "name: ${RUN}").replace("steps: 400", "steps: ${STEPS}")
    spec = loads(text, environment={"RUN": "12", "STEPS": "34"})
    assert (spec.name, spec.training.steps) == ("12", 34)


def test_overrides_and_bases_take_the_environment_too(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(EXAMPLE)
    (tmp_path / "job.yaml").write_text("extends: ${BASE}.yaml\nseed: ${SEED}\n")
    spec = load(tmp_path / "job.yaml", ("training.steps=${SEED}0",), {"BASE": "base", "SEED": "7"})
    assert (spec.seed, spec.training.steps) == (7, 70)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *((name, True) for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "DB_PASSWORD", "MY_PWD")),
        *((name, True) for name in ("aws_session_token", "GOOGLE_CREDENTIALS", "SSH_PRIVATE_KEY", "AWS_ACCESS_KEY_ID")),
        *((name, False) for name in ("TOKENIZER", "MAX_TOKENS", "PWD", "KEY_COLUMN", "MONKEY", "AUTHOR", "BUCKET")),
    ],
)
def test_credentials_are_refused_by_name(name: str, is_one: bool) -> None:
    faults = parse(f"a: ${{{name}}}\n", "f", {name: "x-value"}).faults
    assert bool(faults) == is_one
    for fault in faults:
        assert "looks like a credential, and a run records its spec" in fault.message
        assert "x-value" not in str(fault)
        assert fault.remedy


@given(st.text())
def test_a_recorded_spec_says_what_it_said(text: str) -> None:
    assert resolve(escape(text), {}) == text


def test_what_was_resolved_is_recorded() -> None:
    text = EXAMPLE.replace("a photo of the digit {}", "a $${photo} of {}").replace("seed: 0", "seed: ${SEED}")
    spec = loads(text, environment={"SEED": "5"})
    assert spec.evaluations[0].templates[0] == "a ${photo} of {}"
    assert '"seed": 5\n' in dumps(spec)
    assert loads(dumps(spec), environment={}) == spec


# --- overrides ----------------------------------------------------------------------------------------


def test_plus_equals() -> None:
    spec = loads(
        EXAMPLE,
        overrides=(
            "data.sources.0.urls+=b.tar",
            "data.sources.0.urls += [c.tar, d.tar]",
            "data.sources+={name: other, urls: [e.tar]}",
            "data.sources.1.filters+={field: width, at_least: 200}",
            "data.sources.1.filters.0.one_of+=1",
            "evaluations.0.templates+='my {}'",
            "objective.false_negatives.equal+=text",
            "deepspeed+={zero_optimization: {overlap_comm: true}}",
            "data.image.mean+=[]",
        ),
    )
    source, other = spec.data.sources
    assert source.urls[1:] == ["b.tar", "c.tar", "d.tar"]
    assert (other.urls, other.filters[0].at_least, other.filters[0].one_of) == (["e.tar"], 200, [1])
    assert spec.evaluations[0].templates[2:] == ["handwritten {}", "my {}"]
    assert spec.objective.false_negatives.equal == ["text"]
    assert spec.deepspeed == {"zero_optimization": {"overlap_comm": True}}
    assert spec.data.image is not None
    assert spec.data.image.mean == [0.5, 0.5, 0.5], "what is added to is the default, where the file says nothing"


def test_a_mapping_that_is_added_is_laid_over_as_a_file_is() -> None:
    added = (
        "deepspeed={zero_optimization: {overlap_comm: true, reduce_bucket_size: 5}}",
        "deepspeed+={zero_optimization: {reduce_bucket_size: 7}}",
        "training+={passes: 3, schedule: {warmup_steps: 5}}",
        "objective+={loss: {kind: siglip}}",
        "evaluations.0+={name: other}",
    )
    spec = loads(EXAMPLE, overrides=added)
    assert spec.deepspeed == {"zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 7}}
    assert (spec.training.steps, spec.training.passes) == (None, 3)
    assert spec.training.schedule == loads(EXAMPLE, overrides=("training.schedule.warmup_steps=5",)).training.schedule
    assert spec.objective.loss.kind == "siglip"
    assert (spec.evaluations[0].name, spec.evaluations[0].kind) == ("other", loads(EXAMPLE).evaluations[0].kind)


@pytest.mark.parametrize("one", ["training.passes=3", "training+={passes: 3}"])
@pytest.mark.parametrize("other", ["training.samples=5", "training+={samples: 5}"])
def test_added_or_set_two_that_exclude_each_other_are_a_fault(one: str, other: str) -> None:
    for overrides in ((one, other), (other, one)):
        with pytest.raises(SpecError, match="found passes and samples"):
            loads(EXAMPLE, overrides=overrides)


# --- units --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "field", "expected"),
    [
        ("training.steps=12.8k", "training.steps", 12_800),
        ("training.samples=2B", "training.samples", 2 * 10**9),
        ("data.lanes=auto", "data.lanes", "auto"),
        ("retry.hang_after_seconds=5m", "retry.hang_after_seconds", 300.0),
        ("retry.storage.delay_seconds=1m30s", "retry.storage.delay_seconds", 90.0),
        ("cluster.collective_timeout_seconds=20m", "cluster.collective_timeout_seconds", 1200),
        ("checkpoint.every_minutes=1h30m", "checkpoint.every_minutes", 90.0),
        ("checkpoint.every_minutes=90s", "checkpoint.every_minutes", 1.5),
        ("storage.s3.timeout_seconds=1500ms", "storage.s3.timeout_seconds", 1.5),
        ("data.loader.cache={folder: /a, max_size: 64MiB}", "data.loader.cache.max_size", 64 << 20),
    ],
)
def test_units(override: str, field: str, expected: object) -> None:
    spec: Any = loads(EXAMPLE, overrides=(override,))
    for part in field.split("."):
        spec = getattr(spec, part)
    assert (spec, type(spec)) == (expected, type(expected))


# --- versions -----------------------------------------------------------------------------------------


def test_an_older_version_is_read_as_the_newest() -> None:
    versions = (
        Version("tandem/v1", {"training.batch": "training.global_batch", "tries": "retry.max_attempts"}),
        Version("tandem/v2", {"training.global_batch": "batch.size"}),
        Version("tandem/v3"),
    )
    document = parse("apiVersion: tandem/v1\ntraining:\n  batch: 5\n  steps: 1\ntries: 3\n", "f")
    migrate(document, versions)
    assert document.value == {
        "apiVersion": "tandem/v3",
        "training": {"steps": 1},
        "batch": {"size": 5},
        "retry": {"max_attempts": 3},
    }
    assert str(document.place(("batch", "size"))) == "f:3:10"
    newest = parse("apiVersion: tandem/v3\ntraining: {batch: 5}\n", "f")
    migrate(newest, versions)
    assert newest.value["training"] == {"batch": 5}


def test_the_smallest_useful_spec() -> None:
    text = (Path(__file__).parents[2] / "jobspecs" / "language.md").read_text().partition("```yaml\n")[2]
    text = text.partition("```")[0]
    assert len(text.splitlines()) <= 12
    spec = loads(text)
    assert (spec.training.optimizer.kind, spec.model.embedding_dim, spec.data.sources[0].name) == ("adamw", 512, "data")
