"""The run directory: its places, the plan it keeps, and records that grow in parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobspecs.errors import StorageError
from workers.data.order import Layout
from workers.run import PartsWriter, RunDirectory, RunDirectoryError, RunPlan, read_parts
from workers.storage import ObjectInfo, Storage

PLAN = RunPlan(
    Layout(seed=3, global_batch=24, lanes=4, window=16, slots=(14, 10)),
    total_steps=25,
    spec_hash="5bec",
    index_fingerprint="f19e",
)


def test_places() -> None:
    run = RunDirectory("s3://bucket/runs/digits-clip")
    assert run.name == "digits-clip"
    assert run.spec == "s3://bucket/runs/digits-clip/spec.yaml"
    assert run.index("digits") == "s3://bucket/runs/digits-clip/index/digits.parquet"
    assert run.tokenizer("text") == "s3://bucket/runs/digits-clip/tokenizers/text.json"
    assert run.checkpoint(100) == f"{run.checkpoints}/step-00000100"
    assert run.evaluation(100, "held-out") == f"{run.uri}/evaluations/step-00000100/held-out.json"
    assert len({run.plan, run.drivers, run.stop, run.events, run.metrics, run.bad_samples}) == 6


def test_plan_comes_back_from_json() -> None:
    assert RunPlan.from_json(PLAN.to_json()) == PLAN


def _without(name: str) -> bytes:
    fields = json.loads(PLAN.to_json())
    del fields[name]
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (PLAN.to_json()[:-5], "Expecting|delimiter|Unterminated"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"[]", "list"),
        (b"null", "NoneType"),
        (_without("layout"), "layout"),
        (_without("total_steps"), "total_steps"),
        (PLAN.to_json().replace(b'"total_steps"', b'"all_steps"'), "all_steps"),
        (PLAN.to_json().replace(b'"lanes": 4', b'"lanes": 5'), "24 is not a multiple of 5 lanes"),
    ],
)
def test_a_plan_that_cannot_be_read_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(RunDirectoryError, match=rf"plan\.json can't be read \(.*({reason})") as raised:
        RunPlan.from_json(data)
    assert str(raised.value).endswith("or give the job another name.")


def test_parts_are_read_in_the_order_they_were_written(tmp_path: Path) -> None:
    storage, root = Storage(), f"file://{tmp_path}"
    writer = PartsWriter(storage, f"{root}/metrics", "a001-")
    records = [{"step": step, "loss": step / 3, "text": "ä\n"} for step in range(20)]
    for record in records:
        writer.append(record)
        if record["step"] % 3 == 0:
            writer.flush()
    assert list(read_parts(storage, f"{root}/metrics")) == records[:19]
    writer.flush()
    assert list(read_parts(storage, f"{root}/metrics")) == records
    assert [info.uri for info in storage.list(f"{root}/metrics")] == [f"{root}/metrics/a001-000000.jsonl"]


def test_a_full_part_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartsWriter, "PART_BYTES", 50)
    storage, root = Storage(), f"file://{tmp_path}"
    writer = PartsWriter(storage, f"{root}/events")
    for number in range(12):
        writer.append({"number": number})  # 15 or 16 bytes
        writer.flush()
    names = [info.uri.rpartition("/")[2] for info in storage.list(f"{root}/events")]
    assert names == ["000000.jsonl", "000001.jsonl", "000002.jsonl"]
    assert [record["number"] for record in read_parts(storage, f"{root}/events")] == list(range(12))


def test_a_second_writer_goes_on_behind_the_first(tmp_path: Path) -> None:
    storage, root = Storage(), f"file://{tmp_path}"
    for number in range(3):
        writer = PartsWriter(storage, f"{root}/events", "a001-")
        writer.append({"number": number})
        writer.flush()
    other = PartsWriter(storage, f"{root}/events", "a002-")
    other.append({"number": 3})
    other.flush()
    assert [record["number"] for record in read_parts(storage, f"{root}/events")] == [0, 1, 2, 3]
    assert [info.uri.rpartition("/")[2] for info in storage.list(f"{root}/events")] == [
        "a001-000000.jsonl",
        "a001-000001.jsonl",
        "a001-000002.jsonl",
        "a002-000000.jsonl",
    ]


def test_nothing_to_write_writes_nothing(tmp_path: Path) -> None:
    storage, root = Storage(), f"file://{tmp_path}"
    PartsWriter(storage, f"{root}/events").flush()
    assert storage.list(f"{root}/events") == []
    assert list(read_parts(storage, f"{root}/events")) == []


class _FailsOnce(Storage):
    failed = False

    def write(self, uri: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        if not self.failed:
            self.failed = True
            raise StorageError("no answer")
        return super().write(uri, data, if_absent=if_absent)


def test_a_flush_that_failed_loses_nothing(tmp_path: Path) -> None:
    storage, folder = _FailsOnce(), f"file://{tmp_path}/events"
    writer = PartsWriter(storage, folder)
    writer.append({"number": 0})
    with pytest.raises(StorageError):
        writer.flush()
    writer.append({"number": 1})
    writer.flush()
    assert [record["number"] for record in read_parts(storage, folder)] == [0, 1]
