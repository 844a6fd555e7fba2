"""What follows on each end of an attempt, without Ray: the attempts are played, the run directory is real."""

from __future__ import annotations

import functools
import io
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import RayError
from rich.console import Console

from jobspecs.errors import JobFailedError, UnreachableError, UsageError
from orchestrator import bookkeeping, checkpoints, elastic, evaluations, journal, ray_cluster, resume, watch, workforce
from orchestrator.attempts import Attempts
from orchestrator.crew import Crew
from orchestrator.driver import Driver
from orchestrator.environment import variables
from orchestrator.evaluations import Evaluations
from orchestrator.failure import AttemptFailedError, Failure, Kind
from orchestrator.hang import Hang
from orchestrator.interrupt import Interrupt, signals
from orchestrator.journal import Journal
from orchestrator.lease import Lease, TakenOverError
from orchestrator.ledger import Ledger, State
from orchestrator.prepare import Prepared, prepare
from orchestrator.retry import Again
from orchestrator.stop_request import Why
from orchestrator.views.lines import LinesView
from tests.orchestrator.conftest import TINY, digits_spec
from tests.orchestrator.played_tasks import Cast, sections
from tests.waiting import until
from workers.run import RunDirectory, RunPlan, committed_steps
from workers.storage import ObjectInfo, Storage
from workers.storage.backend import Backend
from workers.train.checkpoint import Manifest
from workers.train.fence import claim_attempt
from workers.train.task import Outcome, TrainTask

NO_DELAYS = tuple(f"retry.{kind}.delay_seconds=0" for kind in ("worker_lost", "node_lost", "out_of_memory", "storage"))
JOB = (*TINY, *NO_DELAYS, "evaluations=[]", "training.steps=40")
VARIABLE = "RAY_API_SERVER_ADDRESS"


@dataclass
class Stage:
    """A job, and what the cluster has for it."""

    job: Prepared
    room: int = 9
    """Workers that fit on its nodes."""
    held: int = 0
    """Those of the attempt that runs, or that wait to start anew."""
    stands: bool = False
    """Whether ranks that failed wait to start anew."""
    dismissed: int = 0
    """How often they were told not to."""
    evaluates: int = 0
    """Places that evaluations take."""
    asked_for: list[int] = field(default_factory=list)
    """Of each request to an autoscaler, how many workers it is for."""
    draining: set[str] = field(default_factory=set)
    interrupt: Interrupt = field(default_factory=Interrupt)
    played: list[tuple[int, int, str | None]] = field(default_factory=list)
    """Of each attempt: its number, its workers, what it went on from."""
    tasks: list[TrainTask] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.job.storage, self.job.run)
        self.output = io.StringIO()
        self.view = LinesView(Console(file=self.output))
        self.journal = Journal(self.ledger, self.view)
        self.lease = Lease(self.job.storage, self.job.run)
        self.cast = Cast(self.job.spec, self.job.run)

    def commit(self, step: int, experiment: str | None = None) -> Outcome:
        """What an attempt leaves that ends at `step`."""
        fixed = self.job.fixed
        manifest = Manifest(step, experiment or fixed.spec_hash, fixed.index_fingerprint, 0, 1, 1, {})
        self.job.storage.write(f"{self.job.run.checkpoint(step)}/manifest.json", manifest.to_json())
        return Outcome(step)

    def until_asked(self) -> None:
        """Trains on until it is asked to end."""
        until(lambda: self.job.storage.exists(self.job.run.stop), "a request to end")

    def when(self, kind: str, then: Callable[[], object]) -> None:
        """Calls `then` as soon as there is an event of the kind."""

        def look() -> None:
            until(lambda: self.events(kind), f"the event {kind}")
            then()

        threading.Thread(target=look, daemon=True).start()

    def train(self) -> bool:
        return Attempts(self.job, self.journal, self.interrupt, self.lease, Evaluations(self.job, self.journal)).run()

    def drive(self) -> State:
        """As `tandem run` does."""
        return Driver(self.job, self.view, self.interrupt).run()

    def events(self, *kinds: str) -> list[dict]:
        return [event for event in self.ledger.events() if event["event"] in kinds]


Play = Callable[[Stage], Outcome]
StageOf = Callable[[Prepared, list[Play]], Stage]


class PlayedCrew(Crew):
    """Plays the attempts of a stage."""

    def __init__(self, stage: Stage, plays: Sequence[Play]) -> None:
        self.stage = stage
        self.plays = plays

    def standing(self) -> int | None:
        return self.stage.held or None

    def desk(self, world_size: int) -> None:
        self.stage.held = world_size

    def run(self, task: TrainTask) -> Outcome:
        stage = self.stage
        stage.played.append((task.attempt, stage.held, task.resume_from and task.resume_from[-8:]))
        stage.tasks.append(task)
        try:
            outcome = self.plays[len(stage.played) - 1](stage)
        except AttemptFailedError:
            if not stage.stands:
                stage.held = 0
            raise
        stage.held = 0
        return outcome

    def dismiss(self, patience_seconds: float = 0.0) -> None:
        if self.stage.held:
            self.stage.dismissed += 1
        self.stage.held = 0


@pytest.fixture
def stage_of(monkeypatch: pytest.MonkeyPatch) -> StageOf:
    """`stage_of(job, plays)`: the first attempt is played by `plays[0](stage)`, and so on."""
    for module in (watch, bookkeeping, workforce, resume):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(workforce, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(resume, "LOOK_AGAIN_SECONDS", 0.0)
    for name in ("start_ray", "check_resources", "check_evaluations"):
        monkeypatch.setattr(f"orchestrator.driver.{name}", lambda *_: None)

    def make(job: Prepared, plays: list[Play]) -> Stage:
        made = Stage(job)

        monkeypatch.setattr("orchestrator.attempts.Crew", lambda *_: PlayedCrew(made, plays))
        monkeypatch.setattr("orchestrator.launch.Monitor", lambda desk, attempt: Ranks())
        monkeypatch.setattr(ray_cluster, "nodes", lambda: (elastic.Node("n", made.room, 0),))
        monkeypatch.setattr(ray_cluster, "free_workers", lambda cluster: made.room - made.held - made.evaluates)
        monkeypatch.setattr(ray_cluster, "draining_nodes", lambda: made.draining)
        monkeypatch.setattr(ray_cluster, "ask_for", lambda cluster, workers: made.asked_for.append(workers))
        return made

    return make


Make = Callable[..., Stage]


@pytest.fixture
def stage(digits: Path, tmp_path: Path, stage_of: StageOf) -> Make:
    """`stage(plays, *overrides)`: of the digits job."""
    return lambda plays, *more: stage_of(prepare(digits_spec(digits, tmp_path, *JOB, *more)), plays)


def fails(kind: Kind, committed: int = 0) -> Callable[[Stage], Outcome]:
    """An attempt that commits a step, or none, and then fails."""

    def play(stage: Stage) -> Outcome:
        if committed:
            stage.commit(committed)
        raise AttemptFailedError(Failure(kind, f"rank 1: {kind} it is", "the story", 1, str(kind)))

    return play


def ends(step: int) -> Callable[[Stage], Outcome]:
    """An attempt that trains to `step`."""
    return lambda stage: stage.commit(step)


def ends_when_asked(step: int, commits: int = 0) -> Callable[[Stage], Outcome]:
    """An attempt that is asked to end when it has done `step`; it may have committed another one before."""

    def play(stage: Stage) -> Outcome:
        if commits:
            stage.commit(commits)
        stage.until_asked()
        return stage.commit(step)

    return play


def test_a_failure_is_told_and_followed_by_an_attempt_from_the_newest_commit(stage: Make) -> None:
    set_up = stage([fails(Kind.WORKER_LOST, committed=8), ends(40)], "cluster.workers=2")
    assert set_up.train()
    assert set_up.played == [(1, 2, None), (2, 2, "00000008")]
    (failed,) = set_up.events("attempt_failed")
    assert (failed["kind"], failed["rank"], failed["details"]) == ("worker_lost", 1, "the story")
    assert failed["message"] == "attempt 1 failed (worker_lost): rank 1: worker_lost it is"
    (retry,) = set_up.events("retry")
    assert (retry["kind"], retry["delay_seconds"]) == ("worker_lost", 0.0)


@pytest.mark.parametrize(
    ("kind", "then", "dismissed"),
    [
        (Kind.WORKER_LOST, 2, 0),
        (Kind.OUT_OF_MEMORY, 2, 0),  # with fewer rows at a time
        (Kind.NODE_LOST, 1, 1),  # before the first step: it goes on with fewer
    ],
)
def test_ranks_that_failed_start_anew_where_they_stand(stage: Make, kind: Kind, then: int, dismissed: int) -> None:
    set_up = stage([fails(kind), ends(40)], "cluster.workers={min: 1, max: 2}")
    set_up.stands, set_up.room = True, 2
    assert set_up.train()
    assert [(number, size) for number, size, _ in set_up.played] == [(1, 2), (2, then)]
    assert set_up.dismissed == dismissed


def test_ranks_do_not_wait_where_more_have_room_by_now(stage: Make) -> None:
    def fails_and_grows(stage: Stage) -> Outcome:
        stage.room = 4
        return fails(Kind.WORKER_LOST)(stage)

    set_up = stage([fails_and_grows, ends(40)], "cluster.workers={min: 1, max: 4}")
    set_up.stands, set_up.room = True, 2
    assert set_up.train()
    assert [size for _, size, _ in set_up.played] == [2, 4]
    assert set_up.dismissed == 1


def test_evaluations_make_room_for_more_ranks_than_stand(stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_beside_an_evaluation(stage: Stage) -> Outcome:
        stage.evaluates, stage.room = 2, 4  # in this order: somebody is looking
        return fails(Kind.WORKER_LOST)(stage)

    set_up = stage([fails_beside_an_evaluation, ends(40)], "cluster.workers={min: 1, max: 4}")
    set_up.stands, set_up.room = True, 2
    monkeypatch.setattr(Evaluations, "are_running", lambda _: set_up.evaluates > 0)
    monkeypatch.setattr(Evaluations, "make_room", lambda _: setattr(set_up, "evaluates", 0))
    monkeypatch.setattr(workforce, "YIELD_SECONDS", 0.0)
    monkeypatch.setattr(workforce, "SETTLE_SECONDS", 60.0)
    assert set_up.train()
    assert [size for _, size, _ in set_up.played] == [2, 4]


@pytest.mark.parametrize(("delay", "dismissed"), [(5.0, 0), (5.1, 1)])
def test_ranks_do_not_keep_their_room_through_a_long_pause(
    stage: Make, monkeypatch: pytest.MonkeyPatch, delay: float, dismissed: int
) -> None:
    monkeypatch.setattr("orchestrator.retry.decide", lambda *_, **__: Again(delay))
    monkeypatch.setattr("orchestrator.halt.Halt.pause", lambda *_: None)
    set_up = stage([fails(Kind.WORKER_LOST), ends(40)], "cluster.workers=2")
    set_up.stands = True
    assert set_up.train()
    assert set_up.dismissed == dismissed


def test_ranks_that_wait_are_dismissed_before_the_job_ends(stage: Make) -> None:
    set_up = stage([fails(Kind.DIVERGED)], "cluster.workers=2")
    set_up.stands = True
    with pytest.raises(JobFailedError):
        set_up.train()
    assert set_up.dismissed == 1


@pytest.mark.parametrize("before", [None, "http://mine:8265"])
def test_after_a_go_the_environment_is_what_it_was(
    before: str | None, stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it goes on, Ray Train asks the dashboard of the go's own Ray. Later `tandem submit` reads the variable."""
    propagated = {"RAY_TRAIN_V2_ENABLED"}
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray._private.worker.get_dashboard_url", lambda: "127.0.0.1:8299")
    monkeypatch.setattr("ray.train.v2._internal.constants.ENV_VARS_TO_PROPAGATE", propagated)
    monkeypatch.setattr("orchestrator.driver.listening", lambda job, journal: nullcontext())
    with variables({VARIABLE: before}):
        at_first, seen = dict(os.environ), []

        def play(stage: Stage) -> Outcome:
            seen.append((os.environ[VARIABLE], VARIABLE in propagated))
            raise AttemptFailedError(Failure(Kind.DIVERGED, "rank 0: diverged", "the story", 0, "diverged"))

        with pytest.raises(JobFailedError):
            stage([play]).drive()
        assert seen == [("http://127.0.0.1:8299", True)]
        assert dict(os.environ) == at_first
        assert propagated == {"RAY_TRAIN_V2_ENABLED"}


def test_what_ends_the_job_is_named_with_its_remedy_and_what_is_kept(stage: Make) -> None:
    set_up = stage([fails(Kind.DIVERGED, committed=8)])
    with pytest.raises(JobFailedError) as failed:
        set_up.train()
    cause, remedy, kept = str(failed.value).splitlines()
    assert cause == "digits-clip: rank 1: diverged it is"
    assert "same batches" in remedy
    assert kept == "Step 8 is committed; mend the cause, and the same command goes on from there."


def test_a_checkpoint_that_a_rank_finds_damaged_is_withdrawn_at_no_cost(stage: Make) -> None:
    def damaged(step: int) -> Callable[[Stage], Outcome]:
        def play(stage: Stage) -> Outcome:
            stage.job.storage.write(f"{stage.job.run.checkpoint(step)}/manifest.json", b"{")
            return fails(Kind.CHECKPOINT)(stage)

        return play

    plays = [damaged(12), damaged(8), ends(40)]
    set_up = stage(plays, "retry.max_failures_without_commit=1", "retry.max_attempts=1")
    for step in (4, 8, 12):
        set_up.commit(step)
    assert set_up.train()
    assert [resumed for _, _, resumed in set_up.played] == ["00000012", "00000008", "00000004"]
    assert [event["checkpoint"][-8:] for event in set_up.events("checkpoint_rejected")] == ["00000012", "00000008"]
    assert committed_steps(set_up.job.storage, set_up.job.run)[:1] == [4]


def test_a_checkpoint_that_only_a_rank_finds_damaged_stays_what_it_is(stage: Make) -> None:
    """A node that does not see the storage, or reads it wrongly, must not cost the run its commits."""
    set_up = stage([fails(Kind.CHECKPOINT), ends(40)])
    set_up.commit(8)
    assert set_up.train()
    assert [resumed for _, _, resumed in set_up.played] == ["00000008", "00000008"]
    assert not set_up.events("checkpoint_rejected")
    (retry,) = set_up.events("retry")
    (failed,) = set_up.events("attempt_failed")
    assert retry["kind"] == failed["kind"] == "storage"
    assert "rank 1: checkpoint it is; the driver finds it whole. All nodes must see the same" in failed["message"]


def test_a_commit_that_is_not_there_ends_the_job(stage: Make) -> None:
    """Another attempt would train for as long, and its commit be lost as well."""
    set_up = stage([lambda stage: Outcome(9), lambda stage: Outcome(9)])
    with pytest.raises(JobFailedError, match="digits-clip: step 9 was committed and can't be read back, 0 can") as lost:
        set_up.train()
    assert "set storage.root to storage that they share" in str(lost.value)
    assert not set_up.events("attempt_failed")


def test_a_commit_that_somebody_deleted_costs_the_steps_since_the_one_before(stage: Make) -> None:
    def deleted(stage: Stage) -> Outcome:
        stage.commit(8)
        stage.draining = {"n"}
        ended = ends_when_asked(9)(stage)
        stage.draining = set()
        stage.job.storage.delete(f"{stage.job.run.checkpoint(9)}/manifest.json")
        return ended

    set_up = stage([deleted, ends(40)], "cluster.workers=1")
    assert set_up.train()
    assert [resumed for _, _, resumed in set_up.played] == [None, "00000008"]
    (rejected,) = set_up.events("checkpoint_rejected")
    assert rejected["message"].endswith("00000009 is not used: it was committed, and its manifest is gone")


def test_a_commit_that_is_seen_late_is_waited_for(stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def seen_late(storage: Storage, run: RunDirectory, fixed: RunPlan) -> checkpoints.NewestGood:
        looks.append(fixed)
        return checkpoints.NewestGood(None, 0, ()) if len(looks) == 2 else newest_good(storage, run, fixed)

    newest_good = checkpoints.newest_good
    monkeypatch.setattr(checkpoints, "newest_good", seen_late)
    monkeypatch.setattr(resume, "LOOK_AGAIN_SECONDS", 60.0)
    set_up = stage([ends(40)])
    assert set_up.train()
    assert len(looks) == 3
    assert not set_up.events("checkpoint_rejected")


def test_a_commit_that_is_damaged_at_once_costs_the_steps_since_the_one_before(stage: Make) -> None:
    def damaged(stage: Stage) -> Outcome:
        stage.commit(8)
        return stage.commit(40, experiment="another")

    set_up = stage([damaged, ends(40)])
    assert set_up.train()
    assert [resumed for _, _, resumed in set_up.played] == [None, "00000008"]
    assert [event["checkpoint"][-8:] for event in set_up.events("checkpoint_rejected")] == ["00000040"]
    assert not set_up.events("attempt_failed")


def asks(stage: Stage) -> None:
    """Somebody else's request to stop, over whatever is there."""
    stage.job.storage.write(stage.job.run.stop, b"please")


@pytest.mark.parametrize("draining", [set(), {"n"}])
def test_an_attempt_that_somebody_else_asked_to_end_is_an_interrupted_job(stage: Make, draining: set[str]) -> None:
    """Also where the driver had asked as well, before."""

    def asked(stage: Stage) -> Outcome:
        if draining:
            stage.until_asked()
        asks(stage)
        return stage.commit(9)

    set_up = stage([asked], "cluster.workers=1")
    set_up.draining = draining
    assert not set_up.train()
    assert len(set_up.played) == 1
    assert not set_up.events("attempt_ended")  # as where only the driver asked
    told = set_up.events("stop_requested")[-1]
    assert told["message"] == f"somebody asked the job to stop, by {set_up.job.run.stop}; Ctrl-C stops it at once"
    assert set_up.job.storage.read(set_up.job.run.stop) == b"please"


def test_a_job_that_shall_end_at_once_does_not_wait_for_its_attempt(stage: Make) -> None:
    """As by a second Ctrl-C, whoever writes it and wherever."""
    ends = threading.Event()

    def asked(stage: Stage) -> Outcome:
        stage.job.storage.write(stage.job.run.stop, b"now")
        assert ends.wait(60)
        return stage.commit(9)

    set_up = stage([asked], "cluster.workers=1")
    try:
        with signals(set_up.interrupt), pytest.raises(KeyboardInterrupt):
            set_up.drive()
    finally:
        ends.set()
    assert set_up.ledger.status().state == "interrupted"
    assert set_up.ledger.events()[-1]["message"] == "stopped at once; the same command goes on from the last commit"


def test_a_job_without_handlers_that_shall_end_at_once_ends_with_a_commit(stage: Make) -> None:
    """One in a notebook's thread: no signal could end its wait, but it would end the notebook."""

    def asked(stage: Stage) -> Outcome:
        stop = stage.job.run.stop
        stage.job.storage.write(stop, b"now")
        until(lambda: stage.job.storage.read(stop) == b"interrupted", "what the ranks see")
        return stage.commit(9)

    set_up = stage([asked], "cluster.workers=1")
    assert not set_up.train()
    assert [event["reason"] for event in set_up.events("stop_requested")] == ["interrupted"]


def test_a_request_of_the_drivers_does_not_take_the_place_of_another(stage: Make) -> None:
    def asked(stage: Stage) -> Outcome:
        asks(stage)
        stage.draining = {"n"}
        time.sleep(0.1)  # some looks
        return stage.commit(9)

    set_up = stage([asked], "cluster.workers=1")
    assert not set_up.train()
    assert [event["reason"] for event in set_up.events("stop_requested")] == ["interrupted"]
    assert set_up.job.storage.read(set_up.job.run.stop) == b"please"


def test_an_interrupted_job_is_interrupted_even_if_that_can_not_be_written_down(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage goes away while the attempt saves; one that comes back in time still gets the event."""
    write, fails_left = Storage.write, [0]

    def flaky(storage: Storage, uri: str, data: bytes, **more: bool) -> ObjectInfo:
        if "/events/" in uri and fails_left[0]:
            fails_left[0] -= 1
            raise UnreachableError("no answer")
        return write(storage, uri, data, **more)

    def interrupted(failures: int) -> Callable[[Stage], Outcome]:
        def play(stage: Stage) -> Outcome:
            stage.interrupt.request()
            ended = ends_when_asked(9)(stage)
            fails_left[0] = failures
            return ended

        return play

    monkeypatch.setattr(Storage, "write", flaky)
    monkeypatch.setattr(journal, "END_PAUSE_SECONDS", 0.0)
    for failures, written in ((99, 0), (3, 1)):
        fails_left[0] = 0
        set_up = stage([interrupted(failures)], f"name=after-{failures}")
        assert set_up.drive() is State.INTERRUPTED
        assert len(set_up.events("run_interrupted")) == written
        assert ("could not be written down: no answer" in set_up.output.getvalue()) == (not written)


@pytest.mark.parametrize(("kind", "fails_for_good"), [(Kind.WORKER_LOST, False), (Kind.DIVERGED, True)])
def test_an_interrupt_that_meets_a_failure(stage: Make, kind: Kind, fails_for_good: bool) -> None:
    """What the next attempt would mend, the same command does; the event log has the failure."""

    def play(stage: Stage) -> Outcome:
        stage.interrupt.request()
        return fails(kind, committed=8)(stage)

    set_up = stage([play], "retry.worker_lost.delay_seconds=200", "retry.worker_lost.max_delay_seconds=300")
    if fails_for_good:
        with pytest.raises(JobFailedError, match="diverged it is"):
            set_up.drive()
    else:
        assert set_up.drive() is State.INTERRUPTED
    assert set_up.ledger.status().state == ("failed" if fails_for_good else "interrupted")
    assert [failure["kind"] for failure in set_up.ledger.status().failures] == [kind]
    assert not set_up.events("retry")


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_storage_that_is_away_between_attempts_is_no_failure_of_an_attempt(
    stage: Make, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    away = [False]

    def looked_for(*arguments: object) -> checkpoints.NewestGood:
        if away[0]:
            away[0] = interrupted
            raise UnreachableError("no answer")
        return newest_good(*arguments)

    def play(stage: Stage) -> Outcome:
        away[0] = True
        if interrupted:
            stage.interrupt.request()
        else:
            stage.draining = {"n"}
        ended = ends_when_asked(9)(stage)
        stage.draining = set()
        return ended

    newest_good = checkpoints.newest_good
    monkeypatch.setattr(checkpoints, "newest_good", looked_for)
    set_up = stage([play, ends(40)], "cluster.workers=1")
    assert set_up.drive() is (State.INTERRUPTED if interrupted else State.SUCCEEDED)
    assert [resumed for _, _, resumed in set_up.played] == [None, "00000009"][: 1 if interrupted else 2]
    (failed,) = set_up.events("resume_failed")
    assert failed["message"].endswith("can't be prepared (storage): UnreachableError: no answer")
    assert "attempt" not in failed
    assert not set_up.ledger.status().failures


def test_a_storage_that_stays_away_between_attempts_fails_the_job(stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_for(*arguments: object) -> checkpoints.NewestGood:
        raise UnreachableError("no answer")

    monkeypatch.setattr(checkpoints, "newest_good", looked_for)
    set_up = stage([], "retry.storage={retries: 2, delay_seconds: 0}")
    with pytest.raises(JobFailedError, match="no answer\n3 failures of kind storage with no new commit in between"):
        set_up.train()
    assert len(set_up.events("resume_failed")) == 3


def test_out_of_memory_goes_on_with_half_the_rows_at_a_time(stage: Make) -> None:
    """A global batch of 32: 16 rows on each of two ranks, then 8, then 4."""
    set_up = stage([fails(Kind.OUT_OF_MEMORY), fails(Kind.OUT_OF_MEMORY), ends(40)], "cluster.workers=2")
    assert set_up.train()
    assert [task.spec.training.micro_batch for task in set_up.tasks] == [None, 8, 4]
    assert [event["micro_batch"] for event in set_up.events("retry")] == [8, 4]


def test_an_attempt_that_another_driver_has_replaced_ends_this_one(stage: Make) -> None:
    def replaced(stage: Stage) -> Outcome:
        stage.job.storage.write(stage.job.run.driver(1), b"{}")
        return fails(Kind.FENCED)(stage)

    set_up = stage([replaced])
    with pytest.raises(TakenOverError, match="another process has taken over this run"):
        set_up.train()
    assert not set_up.events("attempt_failed", "retry")


def test_an_attempt_whose_place_was_taken_by_a_driver_that_has_lost_the_run_is_repeated(stage: Make) -> None:
    """It woke up late and took a number, before it noticed: the run is still ours."""

    def replaced(stage: Stage) -> Outcome:
        claim_attempt(stage.job.storage, stage.job.run, 2, "another driver")
        return fails(Kind.FENCED)(stage)

    set_up = stage([replaced, ends(40)], "retry.max_failures_without_commit=1")
    assert set_up.train()
    assert [number for number, _, _ in set_up.played] == [1, 3]


def test_numbers_go_on_behind_those_that_a_dead_driver_claimed(stage: Make) -> None:
    set_up = stage([ends(40)])
    claim_attempt(set_up.job.storage, set_up.job.run, 6, "another driver")
    assert set_up.train()
    assert [number for number, _, _ in set_up.played] == [7]


def test_a_number_that_another_driver_claims_in_the_same_moment(stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that one's; who has the run goes on with the next."""
    claimed = []

    def claim(storage: Storage, run: RunDirectory, number: int, token: str) -> None:
        if not claimed:
            claim_attempt(storage, run, number, "another driver")
        claimed.append(number)
        claim_attempt(storage, run, number, token)

    monkeypatch.setattr("orchestrator.launch.claim_attempt", claim)
    set_up = stage([ends(40)])
    assert set_up.train()
    assert claimed == [1, 2]
    (failed,) = set_up.events("attempt_failed")
    assert "attempt 1 of digits-clip was claimed by another driver" in failed["message"]


def test_a_driver_whose_run_was_taken_begins_no_attempt(stage: Make) -> None:
    set_up = stage([])
    set_up.job.storage.write(set_up.job.run.driver(1), b"{}")
    with pytest.raises(TakenOverError):
        set_up.train()


def test_a_run_that_another_driver_began_meanwhile_is_left_alone(stage: Make) -> None:
    """By another spec of that name, while this one looked at the data."""
    set_up, other = stage([], "name=same"), stage([ends(40)], "name=same", "seed=8")
    other.drive()
    before = set_up.ledger.events()
    with pytest.raises(
        UsageError, match=r"same became another run meanwhile .*\. Nothing was changed\. Start this job"
    ):
        set_up.drive()
    assert [event["event"] for event in set_up.ledger.events()[len(before) :]] == ["run_failed"]
    assert set_up.ledger.plan() == other.job.fixed


# --- evaluations --------------------------------------------------------------------------------------


Evaluated = Callable[..., Stage]


@pytest.fixture
def evaluated(stage: Make, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluated:
    """`evaluated(plays, *overrides, a=…)`: a stage whose evaluations are played by a `Cast`."""
    monkeypatch.setattr(evaluations, "POLL_SECONDS", 0.01)
    monkeypatch.setattr("orchestrator.driver.POLL_SECONDS", 0.01)

    def make(plays: list[Callable[[Stage], Outcome]], *more: str, **acts: list[float | str]) -> Stage:
        every = dict.fromkeys(acts, "every_checkpoints: 1")
        made = stage(plays, sections(digits, *acts, **every), *more)
        made.cast = Cast(made.job.spec, made.job.run, **acts)
        monkeypatch.setattr(evaluations, "RayTask", lambda spec, run, batch: made.cast.start(batch))
        return made

    return make


def test_a_job_succeeds_whatever_becomes_of_its_evaluations(evaluated: Evaluated) -> None:
    acts: dict[str, list[float | str]] = {"a": ["dies"], "b": [0.5], "c": ["hangs"], "d": ["raises"]}
    plays = [fails(Kind.WORKER_LOST, committed=8), ends(40)]
    set_up = evaluated(plays, "evaluations.2.timeout_seconds=0.2", **acts)
    assert set_up.drive() is State.SUCCEEDED
    assert {(event["step"], event["evaluation"]) for event in set_up.events("evaluation_finished")} == {
        (8, "b"), (40, "b")}  # fmt: skip
    assert {(event["evaluation"], event["reason"]) for event in set_up.events("evaluation_failed")} == {
        ("a", "its process died"),
        ("c", "it took longer than its timeout_seconds, 0.2"),
        ("d", "ValueError: it is wrong"),
    }
    assert len(set_up.events("attempt_started")) == 2


def test_training_ends_early_where_it_gets_no_better(evaluated: Evaluated) -> None:
    def commits_until_asked(stage: Stage) -> Outcome:
        for step in (8, 16, 24):
            stage.commit(step)
            result = stage.job.run.evaluation(step, "a")
            until(functools.partial(stage.job.storage.exists, result), "the result")
        return ends_when_asked(27)(stage)

    set_up = evaluated([commits_until_asked], "stop={evaluation: a, patience: 2}", a=[0.5])
    assert set_up.drive() is State.SUCCEEDED
    why = "2 results in a row brought no better acc@1 than 0.5000 of step 8"
    (asked,), (ended,) = set_up.events("stop_requested"), set_up.events("training_finished")
    assert (asked["reason"], asked["message"]) == ("early_stop", f"{why}: saving, and ending training early")
    assert ended["message"] == f"training ends early, with step 27: {why}"
    assert set_up.events("evaluation_finished")[-1]["step"] == 27
    # Started again, it is finished.
    assert set_up.drive() is State.SUCCEEDED
    assert "digits-clip is finished: 27 steps, all evaluations done" in set_up.output.getvalue()
    assert len(set_up.played) == 1


def test_evaluations_make_room_for_an_attempt_that_could_use_it(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task has all but one of 3 places when the first attempt fails."""
    monkeypatch.setattr(workforce, "YIELD_SECONDS", 0.0)
    monkeypatch.setattr(workforce, "SETTLE_SECONDS", 60.0)

    def fails_beside_an_evaluation(stage: Stage) -> Outcome:
        stage.commit(8)
        until(lambda: stage.cast.tries, "the evaluation")
        stage.evaluates = 2
        raise AttemptFailedError(Failure(Kind.WORKER_LOST, "gone", "", 1, "gone"))

    set_up = evaluated([fails_beside_an_evaluation, ends(40)], "cluster.workers=2", a=[0.5])
    set_up.room = 3
    set_up.cast.plays = {(8, "a"): ["hangs", 0.5]}
    set_up.cast.cancelled = lambda: setattr(set_up, "evaluates", 0)
    assert set_up.drive() is State.SUCCEEDED
    assert set_up.played == [(1, 2, None), (2, 2, "00000008")]
    assert len(set_up.events("evaluation_displaced")) == 1
    assert not set_up.events("evaluation_failed", "waiting_for_workers")


@pytest.mark.parametrize("looks", [3, 99])
def test_a_storage_that_is_away_at_the_end_of_training(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """It is asked again for a while; a training that is done has not failed of it."""
    left = [looks]

    def away(storage: Storage, run: RunDirectory) -> list[int]:
        if left[0]:
            left[0] -= 1
            raise UnreachableError("no answer")
        return committed_steps(storage, run)

    monkeypatch.setattr("orchestrator.driver.committed_steps", away)
    set_up = evaluated([ends(40)], a=[0.5])
    if looks == 3:
        assert set_up.drive() is State.SUCCEEDED
    else:
        with pytest.raises(UnreachableError, match="no answer"):
            set_up.drive()
        assert left == [99 - evaluations.FAILED_LOOKS]
    told = "the end of training waits, as the run directory did not answer: no answer"
    assert set_up.output.getvalue().count(told) == 1


def test_an_interrupt_is_heard_while_the_end_of_training_waits(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up = evaluated([ends(40)], a=[0.5])

    def away(storage: Storage, run: RunDirectory) -> list[int]:
        set_up.interrupt.request()
        raise UnreachableError("no answer")

    monkeypatch.setattr("orchestrator.driver.committed_steps", away)
    assert set_up.drive() is State.INTERRUPTED
    assert not set_up.events("training_finished", "run_failed")


@pytest.mark.parametrize("by", ["the user", "somebody else"])
def test_a_request_to_stop_ends_the_evaluations(evaluated: Evaluated, by: str) -> None:
    at_end = [f"evaluations.{number}.every_checkpoints=null" for number in range(2)]
    set_up = evaluated([ends(40)], *at_end, a=["hangs"], b=[0.5])
    set_up.cast.then = lambda key: set_up.interrupt.request() if by == "the user" else asks(set_up)
    assert set_up.drive() is State.INTERRUPTED
    assert set_up.cast.tries == [(40, "a")]
    assert len(set_up.events("stop_requested")) == (by == "somebody else")
    assert set_up.ledger.status().state == "interrupted"


def test_a_driver_that_lost_the_run_evaluates_no_longer(evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.lease.HEARTBEAT_SECONDS", 0.01)
    set_up = evaluated([ends(40)], a=["hangs"])
    set_up.cast.then = lambda key: set_up.job.storage.write(set_up.job.run.driver(2), b"another's")
    with pytest.raises(TakenOverError):
        set_up.drive()
    assert set_up.cast.tasks[-1].cancelled
    assert not set_up.events("run_interrupted", "run_failed")


# --- elastic clusters ---------------------------------------------------------------------------------

RANGE = ("cluster.workers={min: 2, max: 8}", "data.lanes=8", "cluster.grow_every_seconds=0.000001")
"""Of 8 lanes, 1, 2, 3, 4 and 8 workers are of use."""


def changes_room(room: int, then: Callable[[Stage], Outcome]) -> Callable[[Stage], Outcome]:
    """An attempt during which the cluster becomes one with so much room."""

    def play(stage: Stage) -> Outcome:
        stage.room = room
        return then(stage)

    return play


def test_a_lost_node_makes_the_job_smaller_and_a_new_one_makes_it_grow_behind_a_commit(stage: Make) -> None:
    plays = [changes_room(3, fails(Kind.NODE_LOST)), changes_room(7, ends_when_asked(16, commits=12)), ends(40)]
    set_up = stage(plays, *RANGE)
    assert set_up.train()
    assert set_up.played == [(1, 8, None), (2, 3, None), (3, 4, "00000016")]
    (asked,) = set_up.events("stop_requested")
    assert (asked["reason"], asked["world_size"]) == ("grow", 4)
    (ended,) = set_up.events("attempt_ended")
    assert (ended["reason"], ended["step"]) == ("grow", 16)
    assert not set_up.job.storage.exists(set_up.job.run.stop)


def test_room_that_is_not_there_makes_the_job_smaller_until_a_commit(stage: Make) -> None:
    """Worker groups that do not come up, down to the least size; no other failure lifts the limit, a commit does."""
    nothing = fails(Kind.NODE_LOST)
    plays = [nothing, nothing, nothing, nothing, fails(Kind.BUG), fails(Kind.NODE_LOST, committed=8), ends(40)]
    more = ("retry.node_lost.retries=9", "retry.max_failures_without_commit=9", "retry.bug.delay_seconds=0")
    set_up = stage(plays, *RANGE, *more)
    assert set_up.train()
    assert [size for _, size, _ in set_up.played] == [8, 4, 3, 2, 2, 2, 8]
    messages = [event["message"] for event in set_up.events("retry")]
    assert messages[0] == "next attempt in 0.0 s, on at most 4 workers"
    assert messages[-1] == "next attempt in 0.0 s"


@pytest.mark.parametrize(("others", "grows"), [([], True), (["another job"], False)])
def test_a_job_grows_onto_what_its_evaluations_have(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch, others: list[str], grows: bool
) -> None:
    """Where another job might have it as well, they keep what they have."""
    monkeypatch.setattr(workforce, "YIELD_SECONDS", 0.0)
    monkeypatch.setattr(workforce, "SETTLE_SECONDS", 60.0)
    monkeypatch.setattr(workforce, "holders", lambda: others)

    def beside_an_evaluation(stage: Stage) -> Outcome:
        stage.commit(8)
        until(lambda: stage.cast.tries, "the evaluation")
        stage.evaluates, stage.room = 2, 4  # in this order: somebody is looking
        stage.commit(12)
        until(lambda: len(stage.events("checkpoint_committed")) == 2, "a look at the commit")
        if grows:
            stage.until_asked()
            return stage.commit(16)
        stage.commit(16)
        until(lambda: len(stage.events("checkpoint_committed")) == 3, "a look behind that one")
        assert not stage.events("stop_requested")
        return stage.commit(40)

    set_up = evaluated([beside_an_evaluation, ends(40)], *RANGE, a=[0.5])
    set_up.room = 2
    set_up.cast.plays = {(8, "a"): ["hangs", 0.5]}
    # Those that have not begun are cancelled first, and have no room that they could make.
    set_up.cast.cancelled = lambda: setattr(set_up, "evaluates", 0 if set_up.cast.tasks[0].cancelled else 2)
    if not grows:
        set_up.when("training_finished", set_up.interrupt.request)
    assert set_up.drive() is (State.SUCCEEDED if grows else State.INTERRUPTED)
    assert [size for _, size, _ in set_up.played] == [2, 4][: 1 + grows]


def test_an_autoscaler_is_asked_for_the_most_workers_of_use_as_long_as_the_job_trains(evaluated: Evaluated) -> None:
    """Nodes that nobody asks for are gone before the job may grow onto them; evaluations need none of them."""

    def trains(stage: Stage) -> Outcome:
        assert stage.asked_for == [4]
        return fails(Kind.WORKER_LOST, committed=8)(stage)

    set_up = evaluated([trains, ends(40)], *RANGE, "cluster.workers.max=7", a=[0.5])
    set_up.cast.plays = {(40, "a"): ["waits"]}  # the driver waits for it, until the request is taken back
    until_taken_back = threading.Thread(
        target=lambda: (until(lambda: set_up.asked_for[-1:] == [0], "it"), set_up.cast.plays.clear()), daemon=True
    )
    until_taken_back.start()
    assert set_up.drive() is State.SUCCEEDED
    assert set_up.asked_for == [4, 4, 0]


def test_a_request_does_not_outlive_a_job_that_fails(stage: Make) -> None:
    set_up = stage([fails(Kind.DIVERGED)], *RANGE)
    with pytest.raises(JobFailedError, match="diverged it is"):
        set_up.drive()
    assert set_up.asked_for == [8, 0]


def test_a_driver_that_lost_the_run_leaves_the_request_to_the_other(stage: Make) -> None:
    def replaced(stage: Stage) -> Outcome:
        stage.job.storage.write(stage.job.run.driver(2), b"{}")
        return fails(Kind.FENCED)(stage)

    set_up = stage([replaced], *RANGE)
    with pytest.raises(TakenOverError):
        set_up.drive()
    assert set_up.asked_for == [8]


def test_a_fixed_number_of_workers_is_asked_for_while_there_is_too_little(stage: Make) -> None:
    set_up = stage([ends(40)], "cluster.workers=2")
    set_up.room = 1
    set_up.when("waiting_for_workers", lambda: setattr(set_up, "room", 2))
    assert set_up.drive() is State.SUCCEEDED
    assert set_up.asked_for == [2, 0]
    enough = stage([ends(40)], "cluster.workers=2", "name=enough")
    assert enough.drive() is State.SUCCEEDED
    assert enough.asked_for == []


def test_a_number_of_workers_stays_what_it_is(stage: Make) -> None:
    set_up = stage([ends_when_asked(16, commits=12)], "cluster.workers=2")
    set_up.when("checkpoint_committed", set_up.interrupt.request)
    assert not set_up.train()
    (asked,) = set_up.events("stop_requested")
    assert asked["reason"] == "interrupted"
    assert asked["message"] == "stopping after the next step, with a checkpoint; again to stop at once"


def test_the_job_waits_for_the_fewest_workers_and_tells(stage: Make) -> None:
    set_up = stage([ends(40)], *RANGE)
    set_up.room = 1
    set_up.when("waiting_for_workers", lambda: setattr(set_up, "room", 2))
    assert set_up.train()
    assert set_up.played == [(1, 2, None)]
    (waiting,) = set_up.events("waiting_for_workers")
    assert waiting["message"] == "waiting up to 600 s for 2 workers of 1 CPU: there is room for 1"


def test_a_wait_that_is_too_long(stage: Make) -> None:
    set_up = stage([], *RANGE, "cluster.wait_seconds=0")
    set_up.room = 1
    with pytest.raises(
        JobFailedError, match=r"waited \d+ s for 2 workers of 1 CPU \(cluster.wait_seconds\), and there is"
    ):
        set_up.train()


WAITS = {"for workers": "waiting_for_workers", "between attempts": "retry"}
"""Events that begin a wait."""


@pytest.mark.parametrize("by", ["the user", "somebody else"])
@pytest.mark.parametrize("where", WAITS)
def test_an_interrupt_ends_a_wait(stage: Make, where: str, by: str) -> None:
    set_up = stage([fails(Kind.BUG)], *RANGE, "retry.bug.delay_seconds=200", "retry.bug.max_delay_seconds=300")
    set_up.room = 1 if where == "for workers" else 8
    set_up.when(WAITS[where], set_up.interrupt.request if by == "the user" else lambda: asks(set_up))
    assert not set_up.train()
    assert len(set_up.events("retry")) == (where == "between attempts")


@pytest.mark.parametrize("where", WAITS)
def test_a_driver_that_was_replaced_ends_its_wait(stage: Make, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    lost = threading.Event()
    monkeypatch.setattr(Lease, "lost", property(lambda lease: lost.is_set()))
    set_up = stage([fails(Kind.BUG)], *RANGE, "retry.bug.delay_seconds=200", "retry.bug.max_delay_seconds=300")
    set_up.room = 1 if where == "for workers" else 8
    set_up.when(WAITS[where], lost.set)
    with pytest.raises(TakenOverError):
        set_up.train()
    assert len(set_up.played) == (where == "between attempts")


# --- nodes that are taken away, and ranks that hang ---------------------------------------------------


@dataclass
class Ranks:
    """A monitor of an attempt on the node `n`."""

    hang: Hang | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def look(self) -> Hang | None:
        return self.hang

    def nodes(self) -> set[str]:
        return {"n"}

    def stacks(self) -> dict[int, str]:
        return {1: "here"}

    def kill(self) -> None:
        self.ended.set()


HANG = Hang((1,), 9, "rank 1 stood still for 300 s in data of step 9 (a.tar)", "a line for each rank")


def watched(stage: Stage, monitor: Ranks, work: Callable[[], Outcome]) -> watch.Ended:
    none = Evaluations(stage.job, stage.journal)
    force = workforce.Workforce((1,), stage.job.spec.cluster, stage.journal, PlayedCrew(stage, []), none)
    books = bookkeeping.Bookkeeping(
        stage.job, stage.journal, stage.interrupt, force, none, monitor.nodes, attempt=1, start=0, world_size=1
    )
    return watch.Watch(stage.job.spec.name, stage.lease, monitor, books).run(work)


def test_an_attempt_on_a_node_that_drains_is_asked_to_save_and_end(stage: Make) -> None:
    set_up = stage([])
    set_up.draining = {"n", "another"}
    ended = watched(set_up, Ranks(), lambda: ends_when_asked(7)(set_up))
    assert (ended.step, ended.failure, ended.asked) == (7, None, Why.PREEMPTED)
    (asked,) = set_up.events("stop_requested")
    assert asked["message"] == "node n is about to be taken away: saving, and going on without it"


def test_a_rank_that_hangs_is_what_the_attempt_failed_of(stage: Make) -> None:
    """Not that the ranks were ended for it."""
    set_up = stage([])
    monitor = Ranks(hang=HANG)

    def work() -> Outcome:
        assert monitor.ended.wait(60)
        return fails(Kind.WORKER_LOST)(set_up)

    failure = watched(set_up, monitor, work).failure
    assert failure is not None
    assert (failure.kind, failure.cause, failure.rank) == (Kind.HANG, HANG.cause, 1)
    assert set_up.job.storage.read(set_up.job.run.stacks(1, 1)) == b"here"


class Gate:
    """A storage that answers as long as it is open; when it is closed, calls are taken and wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open, self.met = threading.Event(), threading.Event()
        self.is_open.set()
        backend = Storage._backend

        def waits(storage: Storage, verb: str, uri: str) -> AbstractContextManager[Backend]:
            if not self.is_open.is_set():
                self.met.set()
                assert self.is_open.wait(60)
            return backend(storage, verb, uri)

        monkeypatch.setattr(Storage, "_backend", waits)

    def close(self) -> None:
        """Returns when somebody waits for it."""
        self.is_open.clear()
        assert self.met.wait(60)


def test_a_hang_is_found_and_ended_also_where_the_storage_does_not_answer(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed is told, and the stacks are written, as soon as it answers again."""
    set_up, monitor, storage = stage([]), Ranks(), Gate(monkeypatch)

    def work() -> Outcome:
        set_up.commit(8)
        storage.close()
        monitor.hang = HANG
        assert monitor.ended.wait(60)
        storage.is_open.set()
        return fails(Kind.WORKER_LOST)(set_up)

    failure = watched(set_up, monitor, work).failure
    assert failure is not None
    assert failure.kind is Kind.HANG
    assert [event["step"] for event in set_up.events("checkpoint_committed")] == [8]
    assert set_up.job.storage.read(set_up.job.run.stacks(1, 1)) == b"here"


def test_a_driver_that_lost_the_run_does_not_wait_for_the_storage_nor_write_any_more(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up, monitor, storage = stage([]), Ranks(), Gate(monkeypatch)
    set_up.lease = SimpleNamespace(lost=False)

    def work() -> Outcome:
        set_up.commit(8)
        storage.close()
        set_up.interrupt.request()
        set_up.lease.lost = True
        assert monitor.ended.wait(60)
        return fails(Kind.WORKER_LOST)(set_up)

    with pytest.raises(TakenOverError):
        watched(set_up, monitor, work)
    (keeping,) = (thread for thread in threading.enumerate() if thread.name == "bookkeeping")
    storage.is_open.set()
    keeping.join()
    assert not set_up.job.storage.exists(set_up.job.run.stop)
    assert not set_up.events("stop_requested")


def test_a_fault_of_the_bookkeeping_is_the_drivers(stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **more: object) -> list[int]:
        raise ValueError("a bug")

    monkeypatch.setattr(checkpoints, "retain", broken)
    with pytest.raises(ValueError, match="a bug"):
        stage([fails(Kind.WORKER_LOST, committed=8)]).train()


def test_what_is_only_to_be_looked_at_or_told_may_fail(stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that is away for a while: the driver says so, and the event is written with the next one."""
    write, away = Storage.write, [False]

    def looks(storage: Storage, run: RunDirectory) -> list[int]:
        if away[0]:
            raise UnreachableError("no answer")
        return committed_steps(storage, run)

    def written(storage: Storage, uri: str, data: bytes, **more: bool) -> ObjectInfo:
        if away[0] and "/events/" in uri:
            raise UnreachableError("no answer")
        return write(storage, uri, data, **more)

    def play(stage: Stage) -> Outcome:
        away[0] = True
        stage.journal.event("remarked", "something happened")
        until(lambda: "did not answer" in stage.output.getvalue(), "a look")
        away[0] = False
        return stage.commit(40)

    monkeypatch.setattr(bookkeeping, "committed_steps", looks)
    monkeypatch.setattr(Storage, "write", written)
    set_up = stage([play])
    assert set_up.train()
    told = set_up.output.getvalue()
    assert "the run directory did not answer: no answer" in told
    assert "something happened (not written down yet: no answer)" in told
    assert [event["event"] for event in set_up.events("remarked", "checkpoint_committed")] == [
        "remarked",
        "checkpoint_committed",
    ]


def test_a_ray_that_does_not_answer_costs_looks_and_not_the_job(stage: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent() -> set[str]:
        raise RayError("the head is away")

    set_up = stage([ends(40)])
    monkeypatch.setattr(ray_cluster, "draining_nodes", silent)
    assert set_up.train()
    assert "Ray did not answer: the head is away" in set_up.output.getvalue()


def test_a_commit_that_a_dead_driver_had_no_time_to_tell_is_told(stage: Make) -> None:
    """Which checkpoints are evaluated depends on how many there were."""
    set_up = stage([fails(Kind.WORKER_LOST), ends(40)])
    set_up.commit(8)
    assert set_up.train()
    assert [event["step"] for event in set_up.events("checkpoint_committed")] == [8, 40]


def test_nodes_that_are_taken_away_too_often(stage: Make) -> None:
    def preempted(stage: Stage) -> Outcome:
        stage.until_asked()
        return stage.commit(9)

    set_up = stage([preempted], "retry.preempted.retries=0", "cluster.workers=1")
    set_up.draining = {"n"}
    with pytest.raises(JobFailedError) as failed:
        set_up.train()
    assert str(failed.value).splitlines() == [
        "digits-clip: a node was taken away; it was saved before",
        "1 failure of kind preempted with no new commit in between (retry.preempted.retries). Use nodes that are not "
        "taken away so often, or commit more often (checkpoint).",
        "Step 9 is committed; mend the cause, and the same command goes on from there.",
    ]


@pytest.mark.parametrize("saved", [True, False])
def test_a_preemption_is_no_failure(stage: Make, saved: bool) -> None:
    """Whether or not there was time to save: it costs nothing of the other budgets."""
    lost = fails(Kind.WORKER_LOST)

    def preempted(stage: Stage) -> Outcome:
        stage.until_asked()
        stage.draining = set()
        return stage.commit(9) if saved else lost(stage)

    set_up = stage([preempted, ends(40)], "retry.max_attempts=1", "cluster.workers=1")
    set_up.draining = {"n"}
    set_up.job.storage.write(set_up.job.run.plan, set_up.job.fixed.to_json())
    assert set_up.train()
    (ended,) = set_up.events("attempt_ended")
    assert ended["reason"] == "preempted"
    assert not set_up.ledger.status().failures
