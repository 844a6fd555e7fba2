"""`tandem embed` on Ray: whole, broken off and gone on with, and never mixed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from jobspecs.errors import ChangedError, DataError, JobFailedError, UsageError
from jobspecs.load import loads
from jobspecs.schedule import TaskResources
from orchestrator import embedding, ray_cluster
from orchestrator.cli import app
from orchestrator.elastic import Node
from orchestrator.embedding import embed_with_ray, find_work, settings_of
from orchestrator.environment import variables
from orchestrator.find_checkpoint import find_checkpoint
from orchestrator.ray_tasks import answers
from tests.orchestrator.played_ray import play_ray
from tests.workers.checkpoints import write_untrained_run
from tests.workers.tiny_job import SPEC, broken, scans, write_shards
from workers.data.tokenize import byte_tokenizer
from workers.run import RunDirectory


def written_run(folder: Path, seed: int) -> str:
    spec = loads(SPEC % "data", "spec.yaml", (f"seed={seed}",))
    write_untrained_run(spec, RunDirectory(f"file://{folder}"), {"text": byte_tokenizer()})
    return str(folder)


def test_settings_are_checked_before_anything_starts(tmp_path: Path) -> None:
    found = find_checkpoint(written_run(tmp_path / "run", 0))
    settings = settings_of(found, None, "float32", ("label",))
    assert (settings.side, settings.dim, settings.fields) == ("image", 16, ("label",))
    with pytest.raises(UsageError, match=r"--side query: the model of .*/run encodes image and text"):
        settings_of(found, "query", "float32", ())
    for fields in (("row",), ("label", "label")):
        with pytest.raises(UsageError, match=f"--field {fields[-1]}: there is a column of that name already"):
            settings_of(found, "image", "float32", fields)


@pytest.fixture
def of_gpus(tmp_path: Path) -> list[str]:
    """`tandem embed` of a run whose workers have two GPUs each, and a shard."""
    write_shards(tmp_path / "data", scans()[:2], shards=1)
    spec = loads(SPEC % "data", "spec.yaml", ("cluster={gpus_per_worker: 2, cpus_per_worker: 4, wait_seconds: 9}",))
    write_untrained_run(spec, RunDirectory(f"file://{tmp_path}/run"), {"text": byte_tokenizer()})
    return ["embed", str(tmp_path / "run"), f"{tmp_path}/data/*.tar", "--out", str(tmp_path / "out")]


NO_GPU = "this machine has no GPU: embedding on its CPUs\n"


@pytest.mark.parametrize(
    ("node", "cluster", "more", "reserved", "told"),
    [
        (Node("n", 8, 1), False, (), (4, 1), ""),
        (Node("n", 8, 0), False, (), (4, 0), NO_GPU),
        (Node("n", 2, 0), False, ("--gpus", "0"), (2, 0), ""),
        (Node("n", 2, 0), True, (), (4, 1), ""),  # it may grow
        (Node("n", 2, 0), True, ("--gpus", "0", "--cpus", "1"), (1, 0), ""),
    ],
)
def test_a_task_reserves_what_a_worker_does_but_no_more_than_this_machine_has(
    of_gpus: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    node: Node,
    cluster: bool,
    more: tuple[str, ...],
    reserved: tuple[int, int],
    told: str,
) -> None:
    patience = []

    def spied(*arguments: Any) -> Iterator[tuple[Any, Any]]:
        patience.append(arguments[-2:])
        return answers(*arguments)

    played = play_ray(monkeypatch)
    monkeypatch.setattr(embedding, "answers", spied)
    monkeypatch.setattr(ray_cluster, "start_ray", lambda cluster: None)
    monkeypatch.setattr(ray_cluster, "nodes", lambda: (node,))
    with variables({"RAY_ADDRESS": "head:6379" if cluster else None}):
        app([*of_gpus, *more], standalone_mode=False)
    cpus, gpus = reserved
    assert played.reserved == [{"num_cpus": cpus, "num_gpus": gpus}]
    assert patience == [(TaskResources(cpus=cpus, gpus=gpus), 9.0)]
    shown = capsys.readouterr()
    assert "out: 2 image embeddings of 1 shards\n" in shown.out
    assert shown.err == told


@pytest.mark.ray
def test_shards_are_embedded_once_and_by_one_model(
    tmp_path: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [*scans()[:8], broken(scans()[8])]
    write_shards(tmp_path / "data", samples, shards=3)
    urls, out = [f"{tmp_path}/data/*.tar"], f"file://{tmp_path}/out"
    found = find_checkpoint(written_run(tmp_path / "run", 0))
    settings = settings_of(found, "image", "float32", ("label",))
    call = ["embed", str(tmp_path / "run"), *urls, "--out", str(tmp_path / "out"), "--field", "label"]
    app([*call, "--workers", "2", "-o", "json"], standalone_mode=False)

    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert json.loads(capsys.readouterr().out) == manifest
    assert (manifest["rows"], manifest["skipped"], len(manifest["shards"])) == (8, {"undecodable": 1}, 3)
    assert manifest["settings"]["side"] == "image"
    assert [one["shard"] for one in manifest["shards"]] == [f"file://{tmp_path}/data/0000{n}.tar" for n in range(3)]
    files = [tmp_path / "out" / one["file"] for one in manifest["shards"]]
    assert sum(parquet.read_table(file).num_rows for file in files) == 8

    # Broken off: a file is missing, and the manifest.
    contents = [file.read_bytes() for file in files]
    times = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    (tmp_path / "out" / "_manifest.json").unlink()
    embed_with_ray(found, find_work(found.storage, urls, out, settings), workers=None)
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text()) == manifest
    assert [file.read_bytes() for file in files] == contents
    assert [file.stat().st_mtime_ns for file in files][::2] == times[::2]

    # Another call was there first: what it wrote is held against what this one would write.
    embed_with_ray(found, replace(find_work(found.storage, urls, out, settings), done={}), workers=None)
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text()) == manifest
    assert [file.stat().st_mtime_ns for file in files][::2] == times[::2]

    other = find_checkpoint(written_run(tmp_path / "other", 1))
    theirs = settings_of(other, "image", "float32", ("label",))
    with pytest.raises(UsageError, match=r"another model or other settings \(model \w+ -> \w+\).* Name another --out"):
        find_work(found.storage, urls, out, theirs)
    with pytest.raises(UsageError, match=r"\(dtype float32 -> float16\)"):
        find_work(found.storage, urls, out, replace(settings, dtype="float16"))
    files[0].unlink()  # a shard that has no file yet would stand beside those of another model
    with pytest.raises(UsageError, match="another model"):
        find_work(found.storage, [f"{tmp_path}/data/00000.tar"], out, theirs)
    shard = tmp_path / "data" / "00001.tar"
    work = find_work(found.storage, [str(shard)], f"file://{tmp_path}/none", settings)
    shard.write_bytes(shard.read_bytes() + bytes(512))
    with pytest.raises(UsageError, match=r"00001.tar as it was before it was written again\. Delete the file"):
        find_work(found.storage, urls, out, settings)

    with pytest.raises(ChangedError, match=r"00001\.tar"):
        embed_with_ray(found, work, workers=None)

    write_shards(tmp_path / "bad", [broken(scans()[0])], shards=1)
    work = find_work(found.storage, [f"{tmp_path}/bad/*.tar"], f"file://{tmp_path}/none", settings)
    with pytest.raises(DataError, match="not one sample of 1 shards can be embedded as image: undecodable 1"):
        embed_with_ray(found, work, workers=None)
    broken_task = replace(work, settings=replace(settings, side="nonsense"))
    with pytest.raises(
        JobFailedError, match=r"embedding failed: .*nonsense.* What is done is kept in .*/none: call again"
    ):
        embed_with_ray(found, broken_task, workers=None)
