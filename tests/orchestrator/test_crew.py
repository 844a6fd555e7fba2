"""Ranks that failed start anew in the run of Ray Train that they had, if nobody dismisses it."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from jobspecs.cluster import Cluster
from orchestrator import ray_cluster
from orchestrator.controller import portable
from orchestrator.crew import Crew, Group, _details, _group_error
from orchestrator.desk import Errors
from orchestrator.failure import AttemptFailedError, Failure, Kind
from tests.waiting import until
from workers.train.task import Outcome


class Tasks:
    """Attempts of ranks that do as they are told, and note that they were there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def task(self, attempt: int, does: str) -> Any:
        return SimpleNamespace(attempt=attempt, does=does, folder=self.folder)

    def ranks(self, attempt: int) -> set[int]:
        return {int(file.name) for file in self.folder.glob(f"{attempt}/?")}


def run_rank(config: dict[str, Any]) -> Outcome:
    import ray.train

    rank, task = ray.train.get_context().get_world_rank(), pickle.loads(ray.get(config["desk"].take.remote()))
    folder = task.folder / str(task.attempt)
    folder.mkdir(exist_ok=True)
    (folder / str(rank)).touch()
    while len(list(folder.glob("?"))) < ray.train.get_context().get_world_size():  # a rank that fails ends the others
        time.sleep(0.05)
    if task.does == "dies" and rank == 1:
        time.sleep(1)  # Ray Train knows by then that it has begun
        os.kill(os.getpid(), signal.SIGKILL)
    if task.does == "waits":
        while not (folder / "go").exists():
            time.sleep(0.1)
    if task.does == "raises":
        ray.get(config["desk"].tell.remote(task.attempt, rank, "Traceback: of all ranks"))
        if rank == 0:  # alone, as whoever is seen first is the cause
            raise ValueError("of rank 0")
    return Outcome(task.attempt)


def lose(desk: Any, tasks: Tasks) -> None:
    """Kills the desk under the ranks of attempt 3, and lets them go on when the new one has their attempt again."""
    until(lambda: tasks.ranks(3) == {0, 1}, "the ranks of attempt 3")
    ray.kill(desk, no_restart=False)

    def has_it_again() -> bool:
        try:
            return bool(pickle.loads(ray.get(desk.take.remote(), timeout=60)).attempt == 3)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return False

    until(has_it_again, "the new desk")
    (tasks.folder / "3" / "go").touch()


def controllers() -> int:
    """Of Ray Train, that this process has started."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    actors = ray._private.state.actors(job_id=job).values()
    return sum(actor["ActorClassName"] == "TrainController" for actor in actors)


@pytest.mark.ray
def test_ranks_that_failed_start_anew_under_the_same_controller(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.rank.run_rank", run_rank)
    tasks, before = Tasks(tmp_path), controllers()
    with Crew("crew", Cluster(), hang_after_seconds=300) as crew:
        assert crew.standing() is None
        crew.desk(2)
        with pytest.raises(AttemptFailedError) as lost:
            crew.run(tasks.task(1, "dies"))
        assert (lost.value.failure.kind, lost.value.failure.rank) == (Kind.WORKER_LOST, 1)
        assert crew.standing() == 2

        desk = crew.desk(2)
        with pytest.raises(AttemptFailedError) as raised:
            crew.run(tasks.task(2, "raises"))
        assert (raised.value.failure.kind, raised.value.failure.cause) == (Kind.BUG, "rank 0: ValueError: of rank 0")
        assert "Traceback: of all ranks" in raised.value.failure.details

        assert crew.desk(2) is desk
        lost_desk = threading.Thread(target=lose, args=(desk, tasks), daemon=True)
        lost_desk.start()
        assert crew.run(tasks.task(3, "waits")) == Outcome(3)
        lost_desk.join()
        assert crew.standing() is None
    assert tasks.ranks(1) == tasks.ranks(2) == tasks.ranks(3) == {0, 1}
    assert controllers() == before + 1


@pytest.mark.ray
@pytest.mark.parametrize("does", ["raises", "waits"])
def test_ranks_that_are_not_wanted_any_more(
    does: str, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they have failed, or run."""
    monkeypatch.setattr("orchestrator.rank.run_rank", run_rank)
    tasks = Tasks(tmp_path)
    with Crew("crew", Cluster(), hang_after_seconds=300) as crew:
        crew.desk(1)
        failed: list[Failure] = []

        def attempt() -> None:
            with pytest.raises(AttemptFailedError) as error:
                crew.run(tasks.task(1, does))
            failed.append(error.value.failure)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        until(lambda: bool(tasks.ranks(1)), "the rank")
        if does == "raises":
            thread.join()
        group = crew._group
        assert isinstance(group, Group)
        crew.dismiss(patience_seconds=600)
        assert not group._thread.is_alive()
        thread.join()
        assert [failure.kind for failure in failed] == [Kind.BUG if does == "raises" else Kind.WORKER_LOST]
        assert crew.standing() is None
        crew.dismiss()  # nothing is left to end


@pytest.mark.parametrize("gone", [{"draining": {"b"}}, {"answering": {"a"}}])
def test_ranks_do_not_wait_for_a_node_that_is_gone(gone: dict[str, set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"draining": set(), "answering": {"a", "b"}}
    monkeypatch.setattr("orchestrator.crew.open_desk", lambda seconds: None)
    monkeypatch.setattr(ray_cluster, "answering", lambda: there["answering"])
    monkeypatch.setattr(ray_cluster, "draining_nodes", lambda: there["draining"])
    group = Group("crew", Cluster(), 2, 300)
    group._waits, group._nodes = True, there["answering"]
    monkeypatch.setattr(group, "_thread", SimpleNamespace(is_alive=lambda: True))
    assert group.stands()
    there.update(gone)
    assert not group.stands()


class LockedError(Exception):
    """What can't be sent."""

    def __init__(self) -> None:
        super().__init__("row 3")
        self.lock = threading.Lock()


class UnreadableError(Exception):
    """What is sent, and can't be read."""

    def __init__(self, row: int, column: int) -> None:
        super().__init__(f"row {row}, column {column}")


@pytest.mark.parametrize(
    ("error", "arrives"),
    [
        (KeyError("row"), "KeyError('row')"),
        (LockedError(), "RuntimeError('LockedError: row 3')"),
        (UnreadableError(3, 4), "RuntimeError('UnreadableError: row 3, column 4')"),
    ],
)
def test_any_error_reaches_the_driver(error: Exception, arrives: str) -> None:
    assert repr(pickle.loads(portable(error))) == arrives


def test_what_is_told_of_an_attempt_that_failed() -> None:
    errors = {rank: portable(ValueError(f"of {rank % 6}")) for rank in range(12)} | {
        12: b"what this process can't read"
    }
    error = _group_error(Errors(errors, {}, {}))
    assert [type(error.worker_failures[rank]).__name__ for rank in (0, 12)] == ["ValueError", "UnpicklingError"]
    told = _details(4, error, {7: "Traceback: " + "x" * 5000, 4: "Traceback: the first"})
    first, second, third, fourth, left = (text.splitlines() for text in told.split("\n["))
    assert first == ["[rank 4]", "Traceback: the first"]
    assert second == ["ranks 0, 6]", "ValueError: of 0"]
    assert third == ["rank 1]", "ValueError: of 1"]
    assert fourth == ["ranks 2, 8]", "ValueError: of 2"]
    assert left == ["7 ranks more]", "The logs of the ranks have it."]


def test_a_run_of_ray_train_that_has_no_place_for_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_place(**_: str) -> None:
        raise OSError("No space left on device")

    desk = SimpleNamespace(attempt=SimpleNamespace(remote=lambda order: None))
    monkeypatch.setattr("orchestrator.crew.open_desk", lambda seconds: desk)
    monkeypatch.setattr(ray_cluster, "answering", set)
    monkeypatch.setattr("tempfile.TemporaryDirectory", no_place)
    monkeypatch.setattr("ray.wait", lambda refs, timeout: ([], refs))
    with pytest.raises(AttemptFailedError) as failed:
        Group("crew", Cluster(), 2, 300).run(SimpleNamespace(attempt=1))
    assert failed.value.failure.cause == "OSError: No space left on device"
