"""A job on all that the data path offers at once, on one and two workers: mixture, filters, trained tokenizer,
a field of the metadata as text, colour changes, damaged samples."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobspecs.errors import JobFailedError
from jobspecs.job import JobSpec
from orchestrator.prepare import prepare
from orchestrator.tokenizers import find
from tests.orchestrator.command import assert_same_experiment, ledger_of, set_flags, tandem
from tests.orchestrator.conftest import EXAMPLE, TINY, digits_spec, drive
from tests.orchestrator.monitoring import EXPRESSIONS, QUERIES, named
from tests.orchestrator.prometheus import INSTALLED, Prometheus
from tests.orchestrator.reference import reference
from tests.waiting import until
from tests.workers.pretrained_folders import bert_like, clip_like
from workers.data.tokenize import Tokenizer

pytestmark = pytest.mark.ray


def spec(data: Path, root: Path, *more: str) -> JobSpec:
    sources = [
        {
            "name": "low",
            "urls": [f"{data}/train/{{00000..00001}}.tar"],
            "weight": 3,
            "filters": [{"field": "label", "at_most": 4}],
        },
        {"name": "all", "urls": [f"{data}/train/{{00002..00003}}.tar"], "weight": 1},
    ]
    flags = (
        f"data.sources={json.dumps(sources)}",
        "data.text={column: json, field: caption, tokenizer: {kind: bpe, vocabulary: 300}, context_length: 32}",
        "data.image.color={}",
        "training.steps=12",
        "training.schedule.warmup_steps=2",
        "evaluations.0.templates=['a photo of the digit {}']",
    )
    return digits_spec(data, root, *TINY, *flags, *more)


@pytest.fixture
def damaged(digits: Path, tmp_path: Path) -> Path:
    """The digits, with one JPEG of the filtered source that is none any more."""
    copy = Path(shutil.copytree(digits, tmp_path / "digits"))
    shard = copy / "train" / "00000.tar"
    with tarfile.open(shard) as tar:
        labels = {member.name: json.load(tar.extractfile(member)) for member in tar if member.name.endswith("json")}
        kept = next(name for name, facts in labels.items() if facts["label"] <= 4)
        offset = tar.getmember(kept.replace("json", "jpg")).offset_data
    content = bytearray(shard.read_bytes())
    content[offset : offset + 2] = b"no"
    shard.write_bytes(content)
    return copy


def test_mixture_filters_tokenizer_and_colours_on_one_and_two_workers(
    ray_cluster: None, damaged: Path, tmp_path: Path
) -> None:
    # Two evaluations: the score of the first is there to be seen as long as the second takes.
    more = ("training.steps=48", "training.health_every=20", "checkpoint.every_steps=12")
    job = spec(damaged, tmp_path, "cluster.workers=2", *more)
    with watched():
        status = drive(job)
    assert status.state == "succeeded"
    assert status.evaluations[0]["samples"] == 360
    # Once in each of the three passes over the source, or not at all in one that leaves it over.
    assert status.bad_samples.keys() == {"undecodable"}
    assert 2 <= status.bad_samples["undecodable"] <= 4
    assert status.filtered == prepare(spec(damaged, tmp_path), only_plan=True).plan.filtered > 300
    told = tandem("status", str(tmp_path / "digits-clip")).stdout
    assert f"{status.bad_samples['undecodable']} undecodable; listed in bad_samples/" in told
    assert f"{status.filtered} samples that the filters leave out" in told
    two = ledger_of(tmp_path, "digits-clip")
    assert 259 < Tokenizer.from_bytes(two.storage.read(two.run.tokenizer("text"))).vocabulary <= 300
    # On what the run keeps for its ranks, without the orchestrator.
    one = reference(two, tmp_path / "one")
    assert one.bad_samples() == two.bad_samples()
    assert_same_experiment(list(one.metrics()), list(two.metrics()), tolerance=1e-4)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Prometheus looks on, and has seen all that the board and the alerts ask for at the end, where it is installed."""
    if not INSTALLED:
        yield
        return
    import ray

    (node,) = ray.nodes()
    with Prometheus([f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"]) as prometheus:
        yield

        def all_are_seen() -> bool:
            missing = named([*QUERIES, *EXPRESSIONS]) - prometheus.names("ray_tandem_").keys()
            assert not missing
            return True

        until(all_are_seen, "the last metrics", every_seconds=0.5)
        seen = prometheus.names("ray_tandem_")
        assert {series["tandem_job"] for metric in seen.values() for series in metric} >= {"digits-clip"}
        of_ranks = seen["ray_tandem_step_seconds_total"]
        assert {series["rank"] for series in of_ranks} >= {"0", "1"}
        assert {series["phase"] for series in of_ranks} >= {"data", "forward", "gather", "backward", "update", "save"}
        assert {series["cause"] for series in seen["ray_tandem_masked_rows_total"]} == {"undecodable"}
        assert set(prometheus.rules().values()) == {"ok"}


def test_the_plan_says_what_sources_and_filters_leave(ray_cluster: None, digits: Path, tmp_path: Path) -> None:
    prepared = prepare(spec(digits, tmp_path, "data.sources.0.metadata=json"))
    low, everything = prepared.plan.sources
    assert (low.slots, everything.slots) == (24, 8)
    assert everything.samples == 719
    assert low.samples + prepared.plan.filtered == 1437 - 719
    assert 0.4 < low.samples / 718 < 0.6
    assert prepared.plan.samples == low.samples + everything.samples
    # The tars had to be read for the filters; the next plan takes that from what was kept.
    kept = list((tmp_path / "indexes").iterdir())
    assert [path.name.rpartition("-")[0] for path in kept] == ["low"]
    before = kept[0].stat().st_mtime_ns
    assert prepare(spec(digits, tmp_path)).plan.sources == prepared.plan.sources
    assert kept[0].stat().st_mtime_ns == before


@pytest.mark.parametrize("make", [clip_like, bert_like])
def test_a_pretrained_tokenizer_is_found_before_the_start(make: object, digits: Path, tmp_path: Path) -> None:
    assert callable(make)
    folder = make(tmp_path / "tokenizer")
    tokenizer = f"data.text.tokenizer={{kind: pretrained, name: '{folder}'}}"
    found = find(digits_spec(digits, tmp_path, tokenizer).data)["text"]
    assert found.fast is not None
    assert found.encode("a photo", 16)[-1] == found.padding


def test_a_tokenizer_that_is_not_there_ends_the_command_with_2(digits: Path, tmp_path: Path) -> None:
    flags = (f"storage.root={tmp_path}", f"data.sources.0.urls=['{digits}/train/*.tar']", "evaluations=[]")
    tokenizer = "data.text.tokenizer={kind: pretrained, name: ./nowhere}"
    answer = tandem("plan", str(EXAMPLE), *set_flags((*flags, tokenizer)))
    assert answer.returncode == 2
    assert f"tokenizer {os.getcwd()}/nowhere: there is no such folder" in answer.stderr


def test_index_a_source_once_and_use_it_in_a_spec(ray_cluster: None, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "digits.index"
    answer = tandem("index", f"{digits}/train/*.tar", "--out", str(out), "--read", "-o", "json")
    assert answer.returncode == 0, answer.stderr
    summary = json.loads(answer.stdout)
    assert (summary["shards"], summary["samples"], summary["shards_with_offsets"]) == (4, 1437, 4)
    assert summary["out"] == f"file://{out}"

    prepared = prepare(digits_spec(digits, tmp_path, f"data.sources.0.index={out}"))
    assert len(prepared.indexes[0].offsets[0]) == 2

    table = tandem("index", f"{digits}/train/*.tar")
    assert "nowhere: give --out" in table.stdout
    missing = tandem("index", f"{digits}/train/{{00003..00004}}.tar")
    assert missing.returncode == 2
    assert "1 of 2 shards do not exist" in missing.stderr


def test_an_index_that_a_spec_names_must_be_there(digits: Path, tmp_path: Path) -> None:
    flags = (f"storage.root={tmp_path}", f"data.sources.0.urls=['{digits}/train/*.tar']", "evaluations=[]")
    answer = tandem("plan", str(EXAMPLE), *set_flags((*flags, "data.sources.0.index=nowhere.index")))
    assert answer.returncode == 2
    assert "source 'digits': there is no index" in answer.stderr
    (tmp_path / "text.index").write_text("no parquet")
    answer = tandem("plan", str(EXAMPLE), *set_flags((*flags, f"data.sources.0.index={tmp_path}/text.index")))
    assert answer.returncode == 2
    assert "text.index can't be read as an index" in answer.stderr


def test_shards_in_two_sources(digits: Path, tmp_path: Path) -> None:
    sources = [{"name": name, "urls": [f"{digits}/train/00000.tar"]} for name in ("one", "two")]
    flags = (f"storage.root={tmp_path}", f"data.sources={json.dumps(sources)}", "evaluations=[]")
    answer = tandem("plan", str(EXAMPLE), *set_flags(flags))
    assert answer.returncode == 2
    assert "1 shards are in two sources" in answer.stderr


def test_a_fault_of_the_spec_that_only_a_worker_finds_is_not_tried_again(
    ray_cluster: None, digits: Path, tmp_path: Path
) -> None:
    one = spec(digits, tmp_path, "cluster.workers=1", "deepspeed={zero_optimization: {reduce_bucket_size: many}}")
    with pytest.raises(JobFailedError, match=r"DeepSpeedConfigurationError: .*reduce_bucket_size"):
        drive(one)
    events = ledger_of(tmp_path, "digits-clip").events()
    assert [event["event"] for event in events].count("attempt_started") == 1
