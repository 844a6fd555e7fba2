"""Records reach the run directory, late where the store is away, and from the ranks that write them."""

from __future__ import annotations

import logging
import threading
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

import workers.train.record
from jobspecs.errors import StorageError
from workers.data.rows import BadSample
from workers.run import RunDirectory, read_parts
from workers.storage import ObjectInfo, Storage
from workers.train.record import Recorder, StepMetrics
from workers.train.stop import StopWatch

BAD = BadSample(uri="file:///x.tar", place=3, key="k", cause="truncated")


def line(step: int) -> StepMetrics:
    values: dict[str, Any] = {field.name: 1.0 for field in fields(StepMetrics)}
    return StepMetrics(**values | {"step": step, "phase_seconds": {"data": 0.5}})


def test_rank_0_records_the_steps_and_every_rank_its_bad_samples(tmp_path: Path) -> None:
    run, storage = RunDirectory(f"file://{tmp_path}"), Storage()
    recorders = [Recorder(storage, run, attempt=1, rank=rank) for rank in (0, 1)]
    for recorder in recorders:
        recorder.step(line(1), [BAD])
        recorder.step(line(2), [])
        recorder.flush()
        assert recorder.causes == {"truncated": 1}
    assert list(read_parts(storage, run.metrics)) == [asdict(line(1)), asdict(line(2))]
    assert list(read_parts(storage, run.bad_samples)) == [{"step": 1, **asdict(BAD)}] * 2


def test_a_store_that_is_away_delays_records_but_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = threading.Event()

    class Away(Storage):
        def write(self, uri: str, data: Any, *, if_absent: bool = False) -> ObjectInfo:
            tried.set()
            raise StorageError("no answer")

    monkeypatch.setattr(workers.train.record, "FLUSH_SECONDS", 0.01)
    run, storage = RunDirectory(f"file://{tmp_path}"), Away()
    with caplog.at_level(logging.WARNING), Recorder(storage, run, attempt=1, rank=0) as recorder:
        recorder.step(line(1), [])
        assert tried.wait(60)
        with pytest.raises(StorageError):  # before a checkpoint it counts
            recorder.flush()
        monkeypatch.setattr(Away, "write", Storage.write)
        recorder.step(line(2), [])
    assert "metrics could not be written yet: no answer" in caplog.text
    assert [record["step"] for record in read_parts(Storage(), run.metrics)] == [1, 2]


def test_the_end_of_an_attempt_does_not_wait_for_a_store_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    class Silent(Storage):
        def write(self, uri: str, data: Any, *, if_absent: bool = False) -> ObjectInfo:
            assert answers.wait(60)
            return super().write(uri, data, if_absent=if_absent)

        def read(self, uri: str) -> bytes:
            assert answers.wait(60)
            return super().read(uri)

    monkeypatch.setattr(workers.train.record, "CLOSE_SECONDS", 0.1)
    run, storage = RunDirectory(f"file://{tmp_path}"), Silent()
    with Recorder(storage, run, attempt=1, rank=0) as recorder, StopWatch(storage, run.stop):
        recorder.step(line(1), [])
    assert not list(read_parts(Storage(), run.metrics))
    answers.set()
