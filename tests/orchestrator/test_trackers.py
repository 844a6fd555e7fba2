"""What trackers are told, and that none of them can hold a job up."""

from __future__ import annotations

import json
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from jobspecs.errors import StorageError, UsageError
from jobspecs.tracking import Tracking, Wandb
from orchestrator import listening
from orchestrator.journal import Journal
from orchestrator.ledger import Ledger
from orchestrator.listening import Aside, Listener
from orchestrator.prepare import Prepared
from orchestrator.record_tail import RecordTail
from orchestrator.telemetry import RunFigures
from orchestrator.trackers import TRACKERS, check_trackers, run_key, scalars, trackers_of
from orchestrator.trackers.tensorboard import TensorBoard
from tests.orchestrator.conftest import digits_spec
from workers.run import PartsWriter, RunDirectory
from workers.storage import Storage

RECORD: dict[str, Any] = {
    "step": 7, "loss": 1.5, "grad_norm": None, "attempt": 1, "time": 70.0, "phase_seconds": {"data": 0.5},
    "health": {"accuracy": 0.5, "mean_cosine": {"image": 0.75}, "loss_floor": None},
}  # fmt: skip
SCORED = {
    "event": "evaluation_finished",
    "evaluation": "digits",
    "main": "acc@1",
    "score": 0.9,
    "step": 4,
    "time": 71.0,
}
STARTED = {"event": "attempt_started", "attempt": 2, "step": 4, "time": 72.0}


def away(*_: Any, **__: Any) -> Any:
    """A storage's `write` during an outage."""
    raise StorageError("no answer")


def test_numbers_of_a_step_and_of_a_result() -> None:
    assert scalars.of_record(RECORD) == {
        "train/loss": 1.5,
        "seconds/data": 0.5,
        "health/accuracy": 0.5,
        "health/mean_cosine/image": 0.75,
    }
    assert scalars.of_event(SCORED) == (4, {"evaluation/digits/acc@1": 0.9})
    assert scalars.of_event(STARTED) is None


# --- TensorBoard ---


def events_in(content: bytes) -> Iterator[Any]:
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event

    def masked(data: bytes) -> int:
        crc = crc32c(data)
        return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF

    while content:
        (length,) = struct.unpack("<Q", content[:8])
        body = content[12 : 12 + length]
        checks = struct.unpack("<I", content[8:12]) + struct.unpack("<I", content[12 + length : 16 + length])
        assert checks == (masked(content[:8]), masked(body))
        yield Event.FromString(body)
        content = content[16 + length :]


def test_event_files_are_written_once_and_say_which_steps_are_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.trackers.tensorboard.SHORTEST_SECONDS", 600.0)  # a busy machine imports for 10 s
    board = TensorBoard(Storage(), RunDirectory(f"file://{tmp_path}/run"))
    board.steps([RECORD, {**RECORD, "step": 8}])
    assert not (tmp_path / "run").exists(), "a file a step would be too many"
    monkeypatch.setattr("orchestrator.trackers.tensorboard.SHORTEST_SECONDS", 0.0)
    board.event(SCORED)
    board.event(STARTED)
    board.close()
    first, *others = sorted((tmp_path / "run" / "tensorboard").iterdir())
    version, one, two, score = events_in(first.read_bytes())
    assert version.file_version == "brain.Event:2"
    assert (one.step, two.step, one.wall_time) == (7, 8, 70.0)
    assert {value.tag: value.simple_value for value in one.summary.value} == scalars.of_record(RECORD)
    assert [value.tag for value in score.summary.value] == ["evaluation/digits/acc@1"]
    (other,) = others
    version, started = events_in(other.read_bytes())
    assert version.file_version == "brain.Event:2"
    assert (started.session_log.status, started.step) == (started.session_log.START, 5)


def test_an_outage_of_the_storage_costs_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.trackers.tensorboard.SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr("orchestrator.trackers.tensorboard.SHARE", 0.0)
    with monkeypatch.context() as outage:
        outage.setattr(Storage, "write", away)
        board = TensorBoard(Storage(), RunDirectory(f"file://{tmp_path}"))
        board.steps([RECORD])
        board.event(SCORED)
        with pytest.raises(StorageError):  # there is no next time
            board.close()
    board.steps([{**RECORD, "step": 8}])
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert [event.step for event in events_in(file.read_bytes())][1:] == [7, 4, 8]


# --- extras ---


@pytest.fixture
def job(tmp_path: Path) -> Prepared:
    spec = digits_spec(tmp_path, tmp_path, "tracking.mlflow={uri: 'sqlite:///runs.db'}", "tracking.wandb={project: p}")
    run = RunDirectory(f"file://{tmp_path}/digits-clip")
    fixed = SimpleNamespace(spec_hash=spec.experiment_hash())
    return cast("Prepared", SimpleNamespace(spec=spec, run=run, storage=Storage(), fixed=fixed))


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.trackers.find_spec", lambda name: None)
    check_trackers(Tracking())
    with pytest.raises(
        UsageError, match=r"tracking\.wandb needs the package wandb.*its sources .*install '\.\[wandb\]'"
    ):
        check_trackers(Tracking(wandb=Wandb(project="p")))


def test_wandb_is_told_under_the_same_id_each_time(job: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Run:
        def define_metric(self, name: str, step_metric: str) -> None:
            assert (name, step_metric) == ("*", "step")

        def log(self, values: dict[str, Any]) -> None:
            told.append(values)

        def finish(self) -> None:
            told.append("end")

    fake = ModuleType("wandb")
    fake.init = lambda **said: (told.append((said["id"], said["resume"], said["project"])), Run())[1]  # type: ignore[attr-defined]
    fake.Settings = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        tracker = TRACKERS["wandb"](job, run_key(job))
        tracker.steps([RECORD])
        tracker.event(SCORED)
        tracker.event(STARTED)
        tracker.close()
    one = [
        (run_key(job), "allow", "p"),
        {"step": 7, **scalars.of_record(RECORD)},
        {"step": 4, "evaluation/digits/acc@1": 0.9},
        "end",
    ]
    assert told == one + one


def test_mlflow_is_told_under_the_same_id_each_time(job: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: dict[str, str] = {}
    told: list[tuple[str, str, float, int]] = []
    ends: list[str] = []

    class Client:
        def __init__(self, tracking_uri: str | None) -> None:
            assert tracking_uri == "sqlite:///runs.db"

        def get_experiment_by_name(self, name: str) -> Any:
            assert name == "digits-clip"
            return SimpleNamespace(experiment_id="1")

        def search_runs(self, experiments: list[str], filter_string: str, max_results: int) -> list[Any]:
            return [
                SimpleNamespace(info=SimpleNamespace(run_id=run)) for key, run in runs.items() if key in filter_string
            ]

        def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> Any:
            runs[tags["tandem.run"]] = f"run-{len(runs)}"
            return SimpleNamespace(info=SimpleNamespace(run_id=runs[tags["tandem.run"]]))

        def update_run(self, run: str, status: str) -> None:
            ends.append(status)

        def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
            assert len(params) <= 100
            told.extend((run, each.key, each.value, each.step) for each in metrics)

        def set_terminated(self, run: str, status: str) -> None:
            ends.append(status)

    fake, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    fake.MlflowClient = Client  # type: ignore[attr-defined]
    entities.Metric = lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step)  # type: ignore[attr-defined]
    entities.Param = lambda key, value: (key, value)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for end in ("run_interrupted", "run_succeeded"):
        tracker = TRACKERS["mlflow"](job, run_key(job))
        tracker.event(SCORED)
        tracker.event({"event": end, "time": 80.0})
        tracker.close()
    assert told == [("run-0", "evaluation/digits/acc_at_1", 0.9, 4)] * 2
    assert ends == ["KILLED", "RUNNING", "FINISHED"]


def test_those_that_the_spec_names_are_made(job: Prepared) -> None:
    assert list(trackers_of(job)) == ["tensorboard", "mlflow", "wandb"]


# --- none of them holds a job up ---


class Told:
    """A tracker that fails or waits where it is told to."""

    def __init__(self, wait: threading.Event | None = None) -> None:
        self.said: list[Any] = []
        self.is_told = threading.Event()
        self._wait = wait

    def event(self, event: Any) -> None:
        self.is_told.set()
        if self._wait is not None:
            self._wait.wait(60)
        if event == "fail":
            raise StorageError("away")
        self.said.append(event)

    steps = event

    def close(self) -> None:
        self.said.append("end")


def test_a_tracker_is_told_in_order_and_to_the_end() -> None:
    tracker, lines = Told(), list[str]()
    aside = Aside("x", lambda: tracker, lines.append)
    aside.event(cast("Any", 1))
    aside.steps([cast("Any", 2)])
    aside.close()
    assert tracker.said == [1, [2], "end"]
    assert lines == []


def test_a_tracker_that_fails_says_so_once_and_is_left_alone() -> None:
    tracker, lines = Told(), list[str]()
    aside = Aside("x", lambda: tracker, lines.append)
    aside.event(cast("Any", "fail"))
    aside.close()
    aside.event(cast("Any", 1))
    assert lines == ["x is told no more of this run: StorageError: away"]

    def make() -> Listener:
        raise RuntimeError("no server")

    Aside("y", make, lines.append).close()
    assert lines[1:] == ["y is told no more of this run: RuntimeError: no server"]


def hanging(monkeypatch: pytest.MonkeyPatch, answer: threading.Event, lines: list[str]) -> tuple[Told, Aside]:
    """A tracker that is being told of 0 until it may `answer`, and has room for one call more."""
    monkeypatch.setattr(listening, "MOST_WAITING", 1)
    tracker = Told(answer)
    aside = Aside("x", lambda: tracker, lines.append)
    aside.event(cast("Any", 0))
    tracker.is_told.wait(60)
    return tracker, aside


def test_a_tracker_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "END_SECONDS", 0.01)
    answer, lines = threading.Event(), list[str]()
    _, aside = hanging(monkeypatch, answer, lines)
    for number in range(1, 4):
        aside.event(cast("Any", number))
    aside.close()
    answer.set()
    assert lines == [
        "x does not answer: it will lack part of the run",
        "x did not answer: it lacks what came last",
        "x lacks 2 messages of this run: events, or metrics of steps",
    ]


def test_a_tracker_that_answers_late_is_told_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, lines = threading.Event(), list[str]()
    tracker, aside = hanging(monkeypatch, answer, lines)
    aside.event(cast("Any", 1))  # the queue is full
    threading.Timer(0.1, answer.set).start()
    aside.close()
    assert tracker.said == [0, 1, "end"]
    assert lines == []


def test_monitoring_that_fails_ends_no_job(job: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(figures: RunFigures, event: Any) -> None:
        raise KeyError("attempt")

    monkeypatch.setattr(RunFigures, "event", fail)
    monkeypatch.setattr("orchestrator.trackers.trackers_of", lambda job: {})
    vars(job)["fixed"].total_steps = 9
    shown: list[str] = []
    view = SimpleNamespace(line=shown.append, event=lambda event: None)
    journal = Journal(Ledger(Storage(), RunDirectory(f"file://{tmp_path}")), cast("Any", view))
    with listening.listening(job, journal):
        journal.event("attempt_started", "")
    assert shown == ["monitoring is told no more of this run: KeyError: 'attempt'"]


def test_the_journal_tells_listeners_also_what_can_not_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "write", away)
    told = Told()
    shown: list[str] = []
    view = SimpleNamespace(line=shown.append, event=shown.append)
    journal = Journal(Ledger(Storage(), RunDirectory(f"file://{tmp_path}")), cast("Any", view))
    journal.listeners = (cast("Listener", told),)
    journal.event("retry", "next attempt", kind="hang")
    journal.steps([RECORD])
    assert [told.said[0]["kind"], told.said[1]] == ["hang", [RECORD]]
    assert "not written down yet" in shown[0]


def test_each_record_of_an_attempt_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, run = Storage(), RunDirectory(f"file://{tmp_path}")
    old, writer = (PartsWriter(storage, run.metrics, f"a{attempt:05d}-") for attempt in (1, 2))
    monkeypatch.setattr(writer, "PART_BYTES", 30, raising=False)
    old.append({"step": 99})
    old.flush()
    tail = RecordTail(storage, run, 2)
    assert tail.new() == []
    seen = []
    for step in range(6):
        writer.append({"step": step})
        writer.flush()
        if step % 2:
            seen += tail.new()
            assert tail.new() == []
    assert [record["step"] for record in seen] == list(range(6))
    assert len(storage.list(run.metrics)) > 2, "over several parts"


def test_a_part_that_can_not_be_read_costs_no_record(tmp_path: Path) -> None:
    class Away(Storage):
        away = ""

        def read(self, uri: str) -> bytes:
            if self.away and uri.endswith(self.away):
                raise StorageError("no answer")
            return super().read(uri)

    storage, run = Away(), RunDirectory(f"file://{tmp_path}")
    for part in (0, 1):
        storage.write(f"{run.metrics}/a00002-{part:06d}.jsonl", json.dumps({"step": part}).encode() + b"\n")
    tail = RecordTail(storage, run, 2)
    storage.away = "000001.jsonl"
    with pytest.raises(StorageError):
        tail.new()
    storage.away = ""
    assert [record["step"] for record in tail.new()] == [0, 1]
