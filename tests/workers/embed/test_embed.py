"""Shards become rows: whose, in which order, and what is said of those that are missing."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from jobspecs.errors import UsageError
from jobspecs.load import loads
from tests.workers.checkpoints import write_untrained_run
from tests.workers.tiny_job import SPEC, broken, scans
from workers.data.tokenize import byte_tokenizer
from workers.embed import parquet_file, shard
from workers.embed.parquet_file import read_record, to_parquet
from workers.embed.settings import Settings, fingerprint
from workers.embed.shard import Embedder
from workers.evaluate.encode import Encoder
from workers.run import RunDirectory
from workers.storage import Storage
from workers.train.checkpoint import read_manifest


def write_tar(path: Path, samples: list[dict[str, bytes]]) -> str:
    """Members by extension of the samples 0, 1, …. Returns the tar's URI."""
    with tarfile.open(path, "w") as tar:
        for number, members in enumerate(samples):
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{number:04d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return f"file://{path}"


def described(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(f"file://{tmp_path}/run")
    write_untrained_run(loads(SPEC % "data"), directory, {"text": byte_tokenizer()})
    return directory


def settings(side: str, dtype: str = "float32", fields: tuple[str, ...] = ()) -> Settings:
    return Settings("model", side, 16, dtype, fields)  # type: ignore[arg-type]


def test_a_shard_becomes_the_rows_that_evaluations_would_make_of_it(
    tmp_path: Path, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "BATCH", 2)
    jpegs = [sample.jpeg for sample in scans()[:5]]
    uri = write_tar(
        tmp_path / "00000.tar",
        [
            {"jpg": jpegs[0], "txt": b"zero", "json": described(label=0, clip={"score": 0.5}, name="null")},
            {"jpg": broken(scans()[1]).jpeg, "txt": b"one", "json": described(label=1)},
            {"txt": b"two", "json": described(label=2)},
            {"jpg": jpegs[3], "txt": b"\xff"},
            {"jpg": jpegs[4], "txt": b"four", "json": b"no JSON"},
        ],
    )
    storage, spec = Storage(), loads(SPEC % "data")
    info = storage.stat(uri)
    embedder = Embedder.of_checkpoint(spec, run, run.checkpoint(7))
    wanted = settings("image", fields=("label", "clip.score", "name"))
    rows, record = embedder.embed(storage, info, wanted)
    storage.write(f"{run.uri}/00000.parquet", to_parquet(rows, record))

    table = parquet.read_table(run.uri.removeprefix("file://") + "/00000.parquet")
    assert table.column_names == ["key", "shard", "row", "vector", "label", "clip.score", "name"]
    assert table["key"].to_pylist() == ["0000", "0003", "0004"]
    assert table["row"].to_pylist() == [0, 3, 4]
    assert set(table["shard"].to_pylist()) == {uri}
    assert table["label"].to_pylist() == ["0", None, None]
    assert table["clip.score"].to_pylist() == ["0.5", None, None]
    assert table["name"].to_pylist() == ["null", None, None]
    encoder = Encoder.of_checkpoint(spec, run, run.checkpoint(7))
    expected = encoder.images([uri], "jpg", 8).features
    np.testing.assert_allclose(np.array(table["vector"].to_pylist()), expected, atol=1e-6)

    assert (record.rows, record.skipped) == (3, {"missing_column": 1, "undecodable": 1})
    file = storage.stat(f"{run.uri}/00000.parquet")
    assert read_record(storage, file.uri, file.size) == record
    monkeypatch.setattr(parquet_file, "_TAIL_BYTES", 16)
    assert read_record(storage, file.uri, file.size) == record, "a footer that is longer than what is read first"

    rows, record = embedder.embed(storage, info, settings("text", "float16"))
    assert rows.keys == ["0000", "0001", "0002", "0004"]
    assert record.skipped == {"undecodable": 1}
    vector = parquet.read_table(io.BytesIO(to_parquet(rows, record)))["vector"]
    assert str(vector.type) == "fixed_size_list<element: halffloat>[16]"
    expected = encoder.texts(["zero", "one", "two", "four"], 8)
    np.testing.assert_allclose(np.array(vector.to_pylist(), np.float32), expected, atol=1e-3)


def test_a_tar_that_is_cut_gives_what_is_before_the_cut(tmp_path: Path, run: RunDirectory) -> None:
    uri = write_tar(tmp_path / "00000.tar", [{"jpg": sample.jpeg, "txt": b"a"} for sample in scans()[:4]])
    path = tmp_path / "00000.tar"
    path.write_bytes(path.read_bytes()[:3500])
    embedder = Embedder.of_checkpoint(loads(SPEC % "data"), run, run.checkpoint(7))
    rows, record = embedder.embed(Storage(), Storage().stat(uri), settings("image"))
    assert 0 < len(rows.keys) < 4
    assert record.skipped == {"truncated": 1}


def test_a_shard_without_a_sample_is_a_file_without_a_row(tmp_path: Path, run: RunDirectory) -> None:
    uri = write_tar(tmp_path / "00000.tar", [{"png": b"no picture"}])
    embedder = Embedder.of_checkpoint(loads(SPEC % "data"), run, run.checkpoint(7))
    rows, record = embedder.embed(Storage(), Storage().stat(uri), settings("image"))
    table = parquet.read_table(io.BytesIO(to_parquet(rows, record)))
    assert (table.num_rows, record.skipped) == (0, {"missing_column": 1})
    assert str(table["vector"].type) == "fixed_size_list<element: float>[16]"


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 100, b"x" * 100 + (50).to_bytes(4, "little") + b"PAR1"])
def test_a_file_that_is_not_ours_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.parquet holds no embeddings of this version .* Name another --out"):
        read_record(Storage(), f"file://{tmp_path}/a.parquet", len(content))


def test_the_fingerprint_is_that_of_weights_and_tokenizers_wherever_they_lie(run: RunDirectory) -> None:
    manifest = read_manifest(Storage(), run.checkpoint(7))
    tokenizers = {"text": byte_tokenizer()}
    assert fingerprint(manifest, tokenizers) == fingerprint(read_manifest(Storage(), run.checkpoint(7)), tokenizers)
    assert fingerprint(manifest, tokenizers) != fingerprint(manifest, {})
