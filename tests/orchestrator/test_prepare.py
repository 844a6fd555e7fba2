"""What is checked before anything is started, against the run that is there already."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from jobspecs.errors import DataError, UsageError
from jobspecs.evaluation import data_of
from jobspecs.load import dumps
from orchestrator.indexing import build_index, kept_index
from orchestrator.prepare import Prepared, prepare
from tests.orchestrator.conftest import digits_spec
from workers.data.find_shards import Folders
from workers.data.index_file import to_parquet
from workers.data.scan import scan_shard
from workers.storage import Storage


def begin(prepared: Prepared) -> None:
    """Writes down what a run is, as the driver does when it begins."""
    prepared.storage.write(prepared.run.spec, dumps(prepared.spec).encode())
    for index in prepared.indexes:
        prepared.storage.write(prepared.run.index(index.source), to_parquet(index))
    for name, tokenizer in prepared.tokenizers.items():
        prepared.storage.write(prepared.run.tokenizer(name), tokenizer.to_bytes())
    prepared.storage.write(prepared.run.plan, prepared.fixed.to_json())


@pytest.fixture
def copy(digits: Path, tmp_path: Path) -> Path:
    """The digits, to be tampered with."""
    return Path(shutil.copytree(digits, tmp_path / "digits"))


def test_another_experiment_under_the_same_name_is_refused(digits: Path, tmp_path: Path) -> None:
    begin(prepare(digits_spec(digits, tmp_path)))
    with pytest.raises(
        UsageError,
        match=r"training\.optimizer\.learning_rate: 0\.001 -> 0\.5 \(the parameters move otherwise\)\nGive the job",
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
    shard = copy / "train" / "00002.tar"
    shard.write_bytes(shard.read_bytes() + bytes(512))
    with pytest.raises(
        DataError, match=r"are not those that the run 'digits-clip' was started with: 00002\.tar differ\. Bring"
    ):
        prepare(digits_spec(copy, tmp_path))


def test_moved_tars_of_which_one_changed(digits: Path, copy: Path, tmp_path: Path) -> None:
    begin(prepare(digits_spec(digits, tmp_path)))
    shard = copy / "train" / "00001.tar"
    shard.write_bytes(shard.read_bytes() + bytes(512))
    with pytest.raises(DataError, match=r"started with: 00001\.tar differ\. Bring"):
        prepare(digits_spec(copy, tmp_path))


def test_shards_in_another_order_are_other_data(digits: Path, tmp_path: Path) -> None:
    begin(prepare(digits_spec(digits, tmp_path)))
    urls = [f"{digits}/train/{number:05d}.tar" for number in (0, 2, 1, 3)]
    with pytest.raises(DataError, match="started with: the order of the shards is another one"):
        prepare(digits_spec(digits, tmp_path, f"data.sources.0.urls={urls}"))


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


def test_a_damaged_index_that_was_kept_is_made_again(
    digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = prepare(digits_spec(digits, tmp_path))
    begin(prepared)
    run_index = prepared.run.index("digits")
    kept = kept_index(prepared.spec.data.sources[0], prepared.spec.storage.root)
    for uri in (run_index, kept):
        prepared.storage.write(uri, b"no parquet")
    again = prepare(digits_spec(digits, tmp_path))
    assert again.indexes[0].fingerprint() == prepared.indexes[0].fingerprint()
    assert f"is made again: {kept} can't be read as an index" in caplog.text


def test_an_index_that_a_source_names_goes_before_what_was_kept(digits: Path, tmp_path: Path) -> None:
    """It may know where samples begin, where the kept one has counts alone."""
    spec = digits_spec(digits, tmp_path)
    prepare(spec)
    (source,) = spec.data.sources
    folders = Folders(Storage())
    read = build_index(
        source,
        folders,
        lambda source, shards: ((shard, scan_shard(shard, source, folders.storage)) for shard in shards),
        read_all=True,
    )
    (tmp_path / "read.index").write_bytes(to_parquet(read))
    named = prepare(digits_spec(digits, tmp_path, f"data.sources.0.index={tmp_path}/read.index"))
    assert [len(named.indexes[0].offsets[number]) for number in range(4)] == [2] * 4


def test_an_index_without_a_sources_filters_says_nothing_of_it(digits: Path, tmp_path: Path) -> None:
    (index,) = prepare(digits_spec(digits, tmp_path)).indexes
    (tmp_path / "plain.index").write_bytes(to_parquet(index))
    flags = (
        f"data.sources.0.index={tmp_path}/plain.index",
        "data.sources.0.filters=[{field: label, at_most: 4}]",
    )
    with pytest.raises(DataError, match=r"was made with other filters or none\. Leave `index` out"):
        prepare(digits_spec(digits, tmp_path, *flags))


def test_the_training_data_of_an_evaluation_are_looked_for_too(digits: Path, tmp_path: Path) -> None:
    test, train = (os.path.relpath(digits / name / "*.tar") for name in ("test", "train"))
    probe = "evaluations=[{kind: linear_probe, name: probe, data: {urls: ['%s']}, train: {urls: ['%s']}}]"
    with pytest.raises(DataError, match=r"evaluation 'probe': .*gone"):
        prepare(digits_spec(digits, tmp_path, probe % (test, tmp_path / "gone/*.tar")))
    (evaluation,) = prepare(digits_spec(digits, tmp_path, probe % (test, train))).spec.evaluations
    assert {name: data.urls for name, data in data_of(evaluation).items()} == {
        "data": [f"file://{digits}/test/*.tar"],
        "train": [f"file://{digits}/train/*.tar"],
    }


def test_towers_that_can_not_be_are_found_before_the_start(digits: Path, tmp_path: Path) -> None:
    tower = "model.image={kind: config, architecture: nosuch}"
    with pytest.raises(UsageError, match="nosuch"):
        prepare(digits_spec(digits, tmp_path, tower))
