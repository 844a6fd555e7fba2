"""What a user may call a model, and what is said where there is none."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from jobspecs.errors import TandemError, UsageError
from jobspecs.load import loads
from jobspecs.storage import S3
from orchestrator.find_checkpoint import find_checkpoint
from tests.workers.checkpoints import write_untrained_run
from tests.workers.tiny_job import SPEC
from workers.data.tokenize import byte_tokenizer
from workers.run import RunDirectory
from workers.storage import Storage
from workers.train.checkpoint import CheckpointError, read_manifest


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with two checkpoints, at runs/tiny below the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "tiny"
    spec = loads(SPEC % "data")
    write_untrained_run(spec, RunDirectory(f"file://{folder}"), {"text": byte_tokenizer()}, steps=(3, 7))
    return folder


def test_a_run_is_its_newest_checkpoint_by_name_path_or_uri(run: Path) -> None:
    for argument in ("tiny", "runs/tiny", "runs/tiny/", str(run), f"file://{run}"):
        found = find_checkpoint(argument)
        assert found.uri == f"file://{run}/checkpoints/step-00000007", argument
        assert (found.run.uri, found.spec.name, found.manifest.step) == (f"file://{run}", "tiny", 7)
    assert find_checkpoint("tiny", root=f"file://{run.parent}").manifest.step == 7


def test_a_checkpoint_is_named_by_its_folder(run: Path) -> None:
    found = find_checkpoint("runs/tiny/checkpoints/step-00000003/")
    assert (found.uri, found.manifest.step) == (f"file://{run}/checkpoints/step-00000003", 3)


def test_how_s3_is_reached_is_the_spec_s_unless_said(run: Path) -> None:
    given = S3(endpoint="http://elsewhere:9000")
    assert find_checkpoint("tiny").spec.storage.s3 == S3()
    assert find_checkpoint("tiny", given).spec.storage.s3 == given


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("tinny", "runs/tinny holds no run. Give a run directory, the name of one below runs"),
        ("runs", "runs holds no run"),
        ("runs/tiny/checkpoints/step-00000005", "no such checkpoint in .*runs/tiny. It has those of the steps 3, 7"),
        ("elsewhere/checkpoints/step-00000007", "copy the run directory as a whole"),
    ],
)
def test_what_is_no_model_is_refused(run: Path, argument: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected) as raised:
        find_checkpoint(argument)
    assert str(raised.value).startswith(f"{argument}: ")


def test_a_run_without_a_commit_says_so(run: Path) -> None:
    for manifest in run.glob("checkpoints/*/manifest.json"):
        manifest.unlink()
    with pytest.raises(UsageError, match=r"has not committed a checkpoint yet\. Wait for its first"):
        find_checkpoint("tiny")


def test_a_damaged_checkpoint_is_no_silent_older_one(run: Path) -> None:
    next(run.glob("checkpoints/step-00000007/*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match=r"is missing. Name another one, such as file://.*step-00000003$"):
        find_checkpoint("tiny")
    assert find_checkpoint("runs/tiny/checkpoints/step-00000003").manifest.step == 3


def test_a_checkpoint_of_another_experiment_is_refused(run: Path) -> None:
    uri = f"file://{run}/checkpoints/step-00000003"
    other = replace(read_manifest(Storage(), uri), spec_hash="other")
    Storage().write(f"{uri}/manifest.json", other.to_json())
    with pytest.raises(TandemError, match=re.escape(f"{uri} belongs to another experiment than its run")):
        find_checkpoint("runs/tiny/checkpoints/step-00000003")
