"""`tandem embed` on Ray: whole, broken off and gone on with, and never mixed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from jobspecs.errors import ChangedError, DataError, JobFailedError, UsageError
from jobspecs.load import loads
from orchestrator.cli import app
from orchestrator.embedding import embed_with_ray, find_work, settings_of
from orchestrator.find_checkpoint import find_checkpoint
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
