"""What is checked before anything is started, against the run that is there already."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from jobspecs.errors import DataError, UsageError
from jobspecs.load import dumps
from orchestrator.prepare import Prepared, prepare
from tests.orchestrator.conftest import digits_spec


def begin(prepared: Prepared) -> None:
    """Writes down what a run is, as the driver does when it begins."""
    prepared.storage.write(prepared.run.spec, dumps(prepared.spec).encode())
    prepared.storage.write(prepared.run.index(prepared.index.source), prepared.index.to_json())
    prepared.storage.write(prepared.run.plan, prepared.fixed.to_json())


@pytest.fixture
def copy(digits: Path, tmp_path: Path) -> Path:
    """The digits, to be tampered with."""
    return Path(shutil.copytree(digits, tmp_path / "digits"))


def test_another_experiment_under_the_same_name_is_refused(digits: Path, tmp_path: Path) -> None:
    begin(prepare(digits_spec(digits, tmp_path)))
    with pytest.raises(
        UsageError, match=r"training\.optimizer\.learning_rate: 0\.001 -> 0\.5\nGive the job another name"
    ):
        prepare(digits_spec(digits, tmp_path, "training.optimizer.learning_rate=0.5"))


def test_a_plan_may_stand_beside_another_experiment_of_that_name(digits: Path, tmp_path: Path) -> None:
    begin(prepare(digits_spec(digits, tmp_path)))
    prepared = prepare(digits_spec(digits, tmp_path, "training.steps=7"), only_plan=True)
    assert prepared.plan.total_steps == 7


def test_what_is_not_the_experiment_may_change(digits: Path, copy: Path, tmp_path: Path) -> None:
    begin(prepare(digits_spec(digits, tmp_path)))
    more = ("cluster.workers=5", "checkpoint.every_steps=7", "training.zero_stage=0", "data.loader.processes=3")
    again = prepare(digits_spec(copy, tmp_path, *more))
    assert again.plan.workers == 5
    assert again.rewritten == ()


def test_other_data_are_refused(copy: Path, tmp_path: Path) -> None:
    begin(prepare(digits_spec(copy, tmp_path)))
    (copy / "train" / "00002_stats.json").write_text('{"successes": 7}')
    with pytest.raises(
        DataError, match=r"are not those that the run 'digits-clip' was started with: .*00002\.tar differ"
    ):
        prepare(digits_spec(copy, tmp_path))


def test_a_shard_that_was_written_again_is_told(copy: Path, tmp_path: Path) -> None:
    begin(prepare(digits_spec(copy, tmp_path)))
    shard = copy / "train" / "00001.tar"
    os.utime(shard, (1, 1))
    assert prepare(digits_spec(copy, tmp_path)).rewritten == (f"file://{shard}",)


def test_a_run_of_another_version_with_other_fields(digits: Path, tmp_path: Path) -> None:
    prepared = prepare(digits_spec(digits, tmp_path))
    begin(prepared)
    plan = prepared.storage.read(prepared.run.plan).replace(prepared.fixed.spec_hash.encode(), b"of another version")
    prepared.storage.write(prepared.run.plan, plan)
    with pytest.raises(UsageError, match="the fields are equal: the version that wrote it had others"):
        prepare(digits_spec(digits, tmp_path))
