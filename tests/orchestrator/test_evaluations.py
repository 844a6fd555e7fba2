"""The scheduler of evaluations without Ray: tasks are played, the run directory is real, looks are taken by hand."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from jobspecs.errors import UnreachableError
from orchestrator import evaluations as module
from orchestrator import flights
from orchestrator.evaluations import Evaluations, is_finished
from orchestrator.journal import Journal
from orchestrator.ledger import Ledger
from orchestrator.prepare import Prepared, prepare
from orchestrator.views.lines import LinesView
from tests.orchestrator.conftest import TINY, digits_spec
from tests.orchestrator.played_tasks import Cast, sections, write_result
from tests.waiting import until
from workers.train.checkpoint import Manifest, withdraw

EVERY = "every_checkpoints: 1"


@dataclass
class Scene:
    """A run, its evaluations, and those who play them."""

    job: Prepared

    def __post_init__(self) -> None:
        self.job.storage.write(self.job.run.plan, self.job.fixed.to_json())
        self.ledger = Ledger(self.job.storage, self.job.run)
        self.output = io.StringIO()
        self.journal = Journal(self.ledger, LinesView(Console(file=self.output)))
        self.cast = Cast(self.job.spec, self.job.run)
        self.evaluations = self.again()

    def again(self) -> Evaluations:
        """As another driver of the run has them."""
        self.evaluations = Evaluations(self.job, self.journal, self.cast.start)
        return self.evaluations

    def commit(self, *steps: int, attempt: int = 1) -> None:
        fixed = self.job.fixed
        for step in steps:
            manifest = Manifest(step, fixed.spec_hash, fixed.index_fingerprint, 0, attempt, 1, {})
            self.job.storage.write(f"{self.job.run.checkpoint(step)}/manifest.json", manifest.to_json())
            self.journal.event("checkpoint_committed", f"checkpoint at step {step}", step=step)

    def finish(self, last: int, looks: int = 20) -> None:
        """Looks until all is done."""
        self.evaluations.finish(last)
        for _ in range(looks):
            self.evaluations.look()
            if self.evaluations.is_done():
                return
        pytest.fail(f"not done after {looks} looks")

    def told(self, kind: str) -> list[dict]:
        return [event for event in self.ledger.events() if event["event"] == f"evaluation_{kind}"]


Set = Callable[..., Scene]


@pytest.fixture
def scene(digits: Path, tmp_path: Path) -> Set:
    """`scene("a", "b", a="retries: 0")`: a run of 40 steps with these evaluations, and fields of theirs."""

    def make(*names: str, more: tuple[str, ...] = (), **fields: str) -> Scene:
        made = sections(digits, *names, **fields)
        return Scene(prepare(digits_spec(digits, tmp_path, *TINY, "training.steps=40", made, *more)))

    return make


def test_each_checkpoint_is_scored_while_training_goes_on(scene: Set) -> None:
    set_up = scene("a", "b", "c", a=EVERY, b="every_checkpoints: 2", c="")
    set_up.evaluations.admit()
    for step in (10, 20, 30):
        set_up.commit(step)
        set_up.evaluations.look()
        set_up.evaluations.look()
    assert set_up.cast.tries == [(10, "a"), (20, "a"), (20, "b"), (30, "a")]
    assert [len(task.batch.keys) for task in set_up.cast.tasks] == [1, 2, 1], "those of a checkpoint together"
    set_up.commit(40)
    set_up.finish(40)
    assert set_up.cast.tries[4:] == [(40, "a"), (40, "b"), (40, "c")]
    finished = set_up.told("finished")
    assert [(event["step"], event["evaluation"], event["main"], event["score"]) for event in finished][-1] == (
        40, "c", "acc@1", 0.5)  # fmt: skip
    assert finished[-1]["message"] == "evaluation c of step 40: acc@1 0.5000, in 1.0 s"
    assert len(set_up.told("started")) == len(finished) == 7
    assert is_finished(set_up.job, set_up.ledger)


def test_training_goes_first(scene: Set) -> None:
    """A task that runs goes on beside an attempt that starts, unless its room is needed: at no cost to its retries."""
    set_up = scene("a", "b", a=f"{EVERY}, retries: 0", b=f"{EVERY}, retries: 0, resources: {{cpus: 2}}")
    set_up.cast.plays = {"a": ["hangs", 0.4], "b": ["waits"]}
    set_up.commit(10)
    set_up.evaluations.look()
    assert not set_up.cast.tasks, "until the first attempt has its workers"
    set_up.evaluations.admit()
    for _ in range(3):
        set_up.evaluations.look()
    runs, waits = set_up.cast.tasks
    set_up.evaluations.hold()
    assert (runs.cancelled, waits.cancelled) == (False, True)
    set_up.evaluations.make_room()
    set_up.evaluations.look()
    assert runs.cancelled
    assert len(set_up.cast.tasks) == 2
    (displaced,) = set_up.told("displaced")
    assert displaced["message"] == "a of step 10 makes room for training, and comes again later"
    set_up.cast.plays["b"] = [0.4]
    set_up.finish(10)
    assert set_up.cast.tries == [(10, "a"), (10, "a"), (10, "b")]
    assert not set_up.told("failed")


@pytest.mark.parametrize(
    ("play", "cause", "tries"),
    [
        ("dies", "its process died", 3),
        ("hangs", "it took longer than its timeout_seconds, 0.001", 3),
        ("raises", "ValueError: it is wrong", 3),
        ("can't", "the data are gone", 1),
    ],
)
def test_who_fails_is_tried_again_and_keeps_nobody_from_their_result(
    scene: Set, play: str, cause: str, tries: int
) -> None:
    set_up = scene("a", "bad", "c", bad="retries: 2, timeout_seconds: 0.001")
    set_up.cast.plays = {"bad": [play]}
    set_up.cast.then = lambda key: time.sleep(0.002)
    set_up.commit(40)
    set_up.finish(40)
    failed = set_up.told("failed")
    assert [event["reason"] for event in failed] == [cause] * tries
    assert [event["again"] for event in failed] == [True] * (tries - 1) + [False]
    assert set_up.cast.tries.count((40, "a")) == set_up.cast.tries.count((40, "c")) == 1
    if play == "dies":
        assert sorted(len(task.batch.keys) for task in set_up.cast.tasks[1:]) == [1] * 3, "who failed is tried alone"
    status = set_up.ledger.status().evaluations
    assert {"step": 40, "evaluation": "bad", "failed": cause} in status
    assert {result["evaluation"] for result in status if "failed" not in result} == {"a", "c"}


def test_after_training_nobody_waits_for_room_forever(scene: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "LEAST_WAIT_SECONDS", 0.0)
    set_up = scene("a", "b", a="resources: {cpus: 64, gpus: 1}", more=("cluster.wait_seconds=0",))
    set_up.cast.plays = {"a": ["waits"]}
    set_up.commit(40)
    set_up.finish(40)
    (failed,) = set_up.told("failed")
    assert failed["reason"].endswith(
        " s (cluster.wait_seconds) for 64 CPUs and 1 GPUs on one node. Lower its `resources`, or add nodes"
    )
    assert set_up.cast.tries == [(40, "b")]


def test_a_result_that_was_written_and_not_told_counts(scene: Set) -> None:
    set_up = scene("a", "b")
    set_up.cast.plays = {"a": ["dies late"]}
    set_up.commit(40)
    set_up.finish(40)
    assert not set_up.told("failed") or {event["evaluation"] for event in set_up.told("failed")} == {"b"}
    assert {event["evaluation"] for event in set_up.told("finished")} == {"a", "b"}
    assert set_up.cast.tries.count((40, "a")) == 1


def test_a_driver_that_is_started_again_does_what_has_no_result(scene: Set) -> None:
    set_up = scene("a", "b", a=EVERY)
    set_up.commit(10, 20)
    write_result(set_up.job.run, set_up.job.spec, 10, "a", 0.3)
    write_result(set_up.job.run, set_up.job.spec, 20, "b", 0.3)
    evaluation = set_up.job.run.evaluation(20, "a")
    set_up.job.storage.write(evaluation, b'{"spec_hash": "of another section"}')
    set_up.again()
    set_up.finish(20)
    assert set_up.cast.tries == [(20, "a")]


def test_checkpoints_stay_until_they_are_scored_and_the_best_longer(scene: Set) -> None:
    keeps = "checkpoint={keep_last: 1, keep_best: {evaluation: a}}"
    set_up = scene("a", "b", "c", a=EVERY, c="best_only: a", more=(keeps,))
    set_up.cast.plays = {(10, "a"): [0.1], (20, "a"): [0.9], (30, "a"): ["waits"], (40, "a"): [0.2]}  # type: ignore[assignment]
    set_up.commit(10, 20, 30, 40)
    assert set_up.evaluations.needed([10, 20, 30, 40]) == {10, 20, 30, 40}
    set_up.evaluations.admit()
    for _ in range(3):
        set_up.evaluations.look()
    assert set_up.evaluations.needed([10, 20, 30, 40]) == {20, 30}
    set_up.cast.plays[30, "a"] = [0.3]
    set_up.finish(40)
    assert set_up.cast.tries[-2:] == [(20, "c"), (40, "b")]
    assert {info.uri[-22:-14] for info in set_up.job.storage.list(set_up.job.run.checkpoints)} == {
        "00000020", "00000040"}  # fmt: skip


def test_a_storage_that_is_away_for_a_while_delays_evaluations(scene: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up = scene("a")
    set_up.commit(40)
    commits = module._commits
    away = [UnreachableError("no answer")] * (module.FAILED_LOOKS - 1)

    def failing(*arguments: object) -> dict[int, str]:
        if away:
            raise away.pop()
        return commits(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_commits", failing)
    set_up.finish(40, looks=module.FAILED_LOOKS + 3)
    assert set_up.output.getvalue().count("evaluations wait, as the run directory did not answer: no answer") == 1
    set_up.again()
    away += [UnreachableError("no answer")] * module.FAILED_LOOKS
    with pytest.raises(UnreachableError):
        set_up.finish(40, looks=module.FAILED_LOOKS + 3)


def test_the_end_of_the_context_ends_all_tasks(scene: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    set_up = scene("a")
    set_up.cast.plays = {"a": ["hangs"]}
    set_up.commit(40)
    with set_up.again() as evaluations:
        evaluations.finish(40)
        until(lambda: set_up.cast.tries, "the try")
        assert not evaluations.is_done()
    assert set_up.cast.tasks[0].cancelled
    set_up.evaluations.look()
    assert len(set_up.cast.tasks) == 1


def test_a_fault_of_the_scheduler_is_told_at_once_and_fails_the_job_at_its_end(
    scene: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> dict[int, str]:
        raise ValueError("a bug")

    played = scene("a")
    monkeypatch.setattr(module, "_commits", broken)
    assert played.evaluations.look()
    assert "evaluations have stopped: ValueError: a bug" in played.output.getvalue()
    with pytest.raises(ValueError, match="a bug"):
        played.evaluations.is_done()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"spec_hash": 1, "main": "a", "scores": null}'])
def test_a_damaged_result_is_done_again(scene: Set, content: bytes) -> None:
    set_up = scene("a", a=EVERY)
    set_up.commit(10)
    set_up.job.storage.write(set_up.job.run.evaluation(10, "a"), content)
    set_up.evaluations.admit()
    for _ in range(3):
        set_up.evaluations.look()
    assert set_up.cast.tries == [(10, "a")]
    (finished,) = set_up.told("finished")
    assert finished["score"] == 0.5


@pytest.mark.parametrize("looks_between", [0, 2])
def test_a_checkpoint_that_was_withdrawn_and_made_again_is_scored(scene: Set, looks_between: int) -> None:
    """The evaluation of the damaged one failed for good. It is forgotten once the next attempt has committed the step,
    also where that was so quick that nobody saw it missing."""
    set_up = scene("a", "b", a=EVERY, b="every_checkpoints: 2")
    set_up.cast.plays = {(10, "a"): ["can't", 0.4], "b": ["can't"]}  # type: ignore[dict-item]
    set_up.evaluations.admit()
    set_up.commit(10, 20)
    for _ in range(6):
        set_up.evaluations.look()
    assert set_up.cast.tries == [(10, "a"), (20, "a"), (20, "b")]
    withdraw(set_up.job.storage, set_up.job.run.checkpoint(10))
    for _ in range(looks_between):
        set_up.evaluations.look()
    set_up.commit(10, attempt=12)
    for _ in range(6):
        set_up.evaluations.look()
    assert set_up.cast.tries == [(10, "a"), (20, "a"), (20, "b"), (10, "a")], "what failed of others is not tried again"
    assert [result["step"] for result in set_up.ledger.results()] == [10, 20]


def test_a_task_that_reads_a_checkpoint_that_was_made_again_begins_anew(scene: Set) -> None:
    set_up = scene("a", a=f"{EVERY}, retries: 0")
    set_up.cast.plays = {"a": ["hangs", 0.4]}
    set_up.evaluations.admit()
    set_up.commit(10)
    for _ in range(2):
        set_up.evaluations.look()
    set_up.commit(10, attempt=12)
    for _ in range(2):
        set_up.evaluations.look()
    assert [task.cancelled for task in set_up.cast.tasks] == [True, False]
    assert not set_up.told("failed")
    assert [event["score"] for event in set_up.told("finished")] == [0.4]


def test_that_many_checkpoints_wait_is_told_once(scene: Set) -> None:
    """Each of them is kept."""
    set_up = scene("a", a=EVERY)
    set_up.cast.plays = {"a": ["waits"], (10, "a"): ["hangs"]}  # type: ignore[dict-item]
    set_up.evaluations.admit()

    def told() -> list[dict]:
        return [event for event in set_up.ledger.events() if event["event"] == "evaluations_wait"]

    for step in range(1, module.MOST_WAITING + 2):
        set_up.commit(10 * step)
        set_up.evaluations.look()
        set_up.evaluations.look()
    assert not told(), "the first one is being evaluated"
    for step in (100, 110, 120):
        set_up.commit(step)
        set_up.evaluations.look()
    (event,) = told()
    assert event["waiting"] == 6
    assert event["message"] == (
        "6 checkpoints wait to be evaluated, and are kept as long as they wait: the run directory grows while "
        "evaluations come slower than commits. Give them smaller `resources` or a larger `every_checkpoints`, or give "
        "the cluster room for them beside training"
    )


def test_what_waits_after_training_is_not_told(scene: Set) -> None:
    set_up = scene("a", a=EVERY)
    set_up.commit(*range(10, 90, 10))
    set_up.finish(80)
    assert not [event for event in set_up.ledger.events() if event["event"] == "evaluations_wait"]
