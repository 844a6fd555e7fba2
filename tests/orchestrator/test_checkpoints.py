"""Which checkpoint is gone on from, which are kept, and what dead attempts left: pure, and on a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobspecs.checkpoint import Checkpoint, KeepBest
from jobspecs.evaluation import evaluation_hash
from jobspecs.job import JobSpec
from orchestrator.checkpoints import first_of_each, newest_good, retain, superfluous
from tests.orchestrator.conftest import digits_spec
from workers.data.order import Layout
from workers.run import RunDirectory, RunPlan, committed_steps
from workers.storage import Storage
from workers.train.checkpoint import File, Manifest

PLAN = RunPlan(Layout(seed=0, global_batch=8, lanes=4, window=4, slots=(8,)), 100, "spec", "index")

sections = st.builds(
    Checkpoint,
    keep_last=st.integers(1, 4),
    keep_every=st.none() | st.integers(1, 40),
    keep_best=st.none() | st.builds(KeepBest, evaluation=st.just("e"), count=st.integers(1, 3)),
)
commits = st.sets(st.integers(1, 200), max_size=15)


@given(commits, sections, st.dictionaries(st.integers(1, 200), st.floats(0, 1)), st.sets(st.integers(1, 200)))
def test_what_goes_is_kept_by_nothing(
    steps: set[int], section: Checkpoint, scores: dict[int, float], in_use: set[int]
) -> None:
    gone = superfluous(steps, section, scores, in_use)
    kept = sorted(steps - set(gone))
    assert gone == sorted(set(gone) & steps)
    assert not set(gone) & in_use
    assert kept[-section.keep_last :] == sorted(steps)[-section.keep_last :]
    if section.keep_every is not None:
        assert not set(gone) & first_of_each(steps, section.keep_every)
    best = section.keep_best
    for step in gone if best is not None else ():
        better = [other for other in kept if other in scores and scores[other] >= scores.get(step, -1.0)]
        assert len(better) >= min(best.count, len(steps & scores.keys()))
    # What was kept once is kept again: one call after the other deletes no more than one.
    assert superfluous(kept, section, scores, in_use) == []


@given(commits, sections, st.dictionaries(st.integers(1, 200), st.floats(0, 1)))
def test_nothing_is_kept_without_a_reason(steps: set[int], section: Checkpoint, scores: dict[int, float]) -> None:
    kept = steps - set(superfluous(steps, section, scores, ()))
    every = first_of_each(steps, section.keep_every) if section.keep_every else set()
    assert len(kept - every) <= section.keep_last + (section.keep_best.count if section.keep_best else 0)


@given(commits, st.integers(1, 40))
def test_the_first_commit_at_or_behind_each_multiple(steps: set[int], every: int) -> None:
    multiples = range(every, max(steps, default=0) + 1, every)
    assert first_of_each(steps, every) == {min(step for step in steps if step >= multiple) for multiple in multiples}


@given(commits, st.integers(1, 40), st.integers(1, 4))
def test_what_each_multiple_keeps_is_the_same_whenever_commits_are_deleted(
    steps: set[int], every: int, last: int
) -> None:
    """Behind each commit, or once at the end."""
    section, kept = Checkpoint(keep_last=last, keep_every=every), set[int]()
    for step in sorted(steps):
        kept.add(step)
        kept -= set(superfluous(kept, section, {}, ()))
    assert kept == steps - set(superfluous(steps, section, {}, ()))


def test_by_example() -> None:
    def gone(**fields: Any) -> list[int]:
        scores = {10: 0.5, 20: 0.7, 30: 0.7, 40: 0.1}
        return superfluous([10, 20, 30, 40, 50, 60], Checkpoint(keep_last=1, **fields), scores, {40})

    assert gone() == [10, 20, 30, 50]
    assert gone(keep_every=30) == [10, 20, 50]
    assert gone(keep_every=25) == [10, 20], "30 and 50, and 40 is in use"
    assert gone(keep_best=KeepBest(evaluation="e")) == [10, 20, 50], "of equal scores the newer"
    assert gone(keep_best=KeepBest(evaluation="e", count=3)) == [50]


# --- on a folder ---


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(f"file://{tmp_path}/run")


def name_of(attempt: int, rank: int = 0) -> str:
    return f"model-a{attempt:05d}-r{rank:05d}-000.safetensors"


def write(run: RunDirectory, step: int, attempt: int, *, committed: bool = True, of: str = "spec") -> None:
    storage = Storage()
    storage.write(f"{run.checkpoint(step)}/{name_of(attempt)}", b"x")
    if committed:
        manifest = Manifest(step, of, "index", 0, attempt, 1, {}, (File(name_of(attempt), 1, "sha"),))
        storage.write(f"{run.checkpoint(step)}/manifest.json", manifest.to_json())


def files(run: RunDirectory) -> set[str]:
    return {info.uri.removeprefix(f"{run.checkpoints}/step-") for info in Storage().list(run.checkpoints)}


def spec_of(*more: str) -> JobSpec:
    return digits_spec("/data", "/runs", *more)


def test_the_newest_that_is_there_and_of_this_experiment(run: RunDirectory) -> None:
    for step in (10, 20, 30, 40):
        write(run, step, 1, of="another" if step == 30 else "spec")
    write(run, 50, 2, committed=False)
    storage = Storage()
    storage.write(f"{run.checkpoint(40)}/{name_of(1)}", b"longer")
    good = newest_good(storage, run, PLAN)
    assert (good.uri, good.step) == (run.checkpoint(20), 20)
    assert [(rejected.uri, rejected.reason) for rejected in good.rejected] == [
        (run.checkpoint(40), f"{run.checkpoint(40)}/{name_of(1)} has 6 bytes, the manifest says 1"),
        (run.checkpoint(30), "it belongs to another experiment"),
    ]
    for step in (10, 20):
        storage.delete(f"{run.checkpoint(step)}/{name_of(1)}")
    assert newest_good(storage, run, PLAN).uri is None


def test_the_content_of_the_last_step_is_read(run: RunDirectory) -> None:
    """No attempt will load it; its sha256 is wrong here."""
    for step in (90, 100):
        write(run, step, 1)
    good = newest_good(Storage(), run, PLAN)
    assert good.step == 90
    assert "has another sha256 than the manifest says" in good.rejected[0].reason


def test_superfluous_commits_are_deleted_whole(run: RunDirectory) -> None:
    for step in (10, 20, 30, 40):
        write(run, step, 1)
    assert retain(Storage(), run, spec_of("checkpoint.keep_last=1"), 1, in_use={20}) == [10, 30]
    assert files(run) == {f"{step:08d}/{name}" for step in (20, 40) for name in (name_of(1), "manifest.json")}


def test_the_best_by_an_evaluation_are_kept(run: RunDirectory) -> None:
    best = "checkpoint.keep_best={evaluation: held-out-digits, count: 1}"
    spec = spec_of("checkpoint.keep_last=1", best)
    for step, score, of in ((10, 0.9, "an older section"), (20, 0.8, ""), (30, 0.7, "")):
        write(run, step, 1)
        result = {
            "spec_hash": of or evaluation_hash(spec.evaluations[0]),
            "main": "acc@1",
            "scores": {"acc@1": score, "acc@5": 1.0},
        }
        Storage().write(run.evaluation(step, "held-out-digits"), json.dumps(result).encode())
    write(run, 40, 1)
    assert retain(Storage(), run, spec, 1, in_use=()) == [10, 30]
    assert committed_steps(Storage(), run) == [20, 40]


def test_leftovers_of_dead_attempts_are_cleaned(run: RunDirectory) -> None:
    """Of attempt 2, where 3 is the one that runs. What 3 writes stays, and so does what a manifest names."""
    write(run, 10, 1)
    write(run, 20, 2, committed=False)
    write(run, 20, 3, committed=False)
    write(run, 30, 2, committed=False)
    write(run, 40, 2)
    write(run, 40, 1, committed=False)
    write(run, 40, 3, committed=False)
    Storage().write(f"{run.checkpoint(30)}/manifest.rejected.json", b"{}")
    assert retain(Storage(), run, spec_of("checkpoint.keep_last=5"), 3, in_use=()) == []
    assert files(run) == {
        f"00000010/{name_of(1)}",
        "00000010/manifest.json",
        f"00000020/{name_of(3)}",
        "00000030/manifest.rejected.json",
        f"00000040/{name_of(2)}",
        f"00000040/{name_of(3)}",
        "00000040/manifest.json",
    }
