"""The whole worker core on plain processes: the same batches and losses on any number of ranks, from any
checkpoint; and how it stops."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from numpy.typing import NDArray

import workers.train.stop
from jobspecs.errors import TandemError
from tests.ranks import run_ranks
from tests.workers.tiny_job import broken, scans, write_run, write_shards
from workers.evaluate.encode import Encoder
from workers.run import committed_steps, read_parts
from workers.storage import Storage
from workers.train.checkpoint import read_manifest, verify
from workers.train.fence import attempts, claim_attempt
from workers.train.loop import train
from workers.train.task import Outcome, TrainTask

STEPS, COMMITTED = 7, 3


def _train_all(tasks: list[TrainTask]) -> list[Outcome | tuple[str, str]]:
    """The outcome of each task on this rank, or the name and text of what it raised."""
    workers.train.stop.POLL_SECONDS = 0.05
    outcomes: list[Outcome | tuple[str, str]] = []
    for task in tasks:
        try:
            outcomes.append(train(task))
        except TandemError as error:
            outcomes.append((type(error).__name__, str(error)))
        dist.barrier()
    return outcomes


@dataclass(frozen=True)
class Ran:
    """Tasks that ran together, by name, and what became of each on every rank."""

    tasks: dict[str, TrainTask]
    outcomes: dict[str, list[Any]]


def _run(world_size: int, tasks: dict[str, TrainTask]) -> Ran:
    results = run_ranks(_train_all, world_size, list(tasks.values()))
    return Ran(tasks, {name: [of_rank[i] for of_rank in results] for i, name in enumerate(tasks)})


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture(scope="module")
def shards(folder: Path) -> Path:
    """41 samples in 3 shards, one of them broken: 5 steps a pass, so that 7 steps see a pass end."""
    samples = list(scans()[:41])
    samples[20] = broken(samples[20])
    write_shards(folder / "data", samples, shards=3)
    return folder / "data"


def _plain_and_resumed(folder: Path, shards: Path, N: int, overrides: tuple[str, ...]) -> dict[str, TrainTask]:
    """A run from its start, and one that goes on where the run on one rank was committed; with averaged weights."""
    overrides = (*overrides, "training.ema={}")
    committed = f"file://{folder}/plain-1/checkpoints/step-{COMMITTED:08d}"
    resumed = write_run(folder / f"resumed-{N}", shards, overrides)
    return {
        "plain": write_run(folder / f"plain-{N}", shards, overrides),
        "resumed": replace(resumed, attempt=2, resume_from=committed),
    }


@pytest.fixture(scope="module")
def one_rank(folder: Path, shards: Path) -> Ran:
    return _run(1, _plain_and_resumed(folder, shards, 1, ()))


@pytest.fixture(scope="module")
def two_ranks(folder: Path, shards: Path, one_rank: Ran) -> Ran:
    """Two ranks, ZeRO 0, two loader processes each; and the runs that don't reach their end."""
    tasks = _plain_and_resumed(
        folder, shards, 2, ("training.zero_stage=0", "data.loader.processes=2", "data.loader.prefetch=1")
    )
    tasks["stopped"] = write_run(folder / "stopped", shards, ("training.steps=5000",))
    (folder / "stopped" / "stop").write_text("please")
    samples = [broken(sample) if i % 2 else sample for i, sample in enumerate(scans()[:40])]
    write_shards(folder / "bad-data", samples, shards=2)
    tasks["bad"] = write_run(folder / "bad", folder / "bad-data")
    tasks["unsaved"] = write_run(
        folder / "unsaved", shards, ("training.steps=5000", "checkpoint.max_age_minutes=0.0001")
    )
    (folder / "unsaved" / "checkpoints").write_text("a file where a folder should be")
    tasks["fenced"] = write_run(folder / "fenced", shards, ("training.steps=5000",))
    claim_attempt(Storage(), tasks["fenced"].run, 2, "another driver")
    tasks["diverged"] = write_run(folder / "diverged", shards, ("training.optimizer.learning_rate=1e30",))
    return _run(2, tasks)


@pytest.fixture(scope="module")
def three_ranks(folder: Path, shards: Path, one_rank: Ran) -> Ran:
    """4 lanes on 3 ranks: two of them pad half of their rows."""
    return _run(3, _plain_and_resumed(folder, shards, 3, ()))


@pytest.fixture(params=["one_rank", "two_ranks", "three_ranks"])
def ran(request: pytest.FixtureRequest) -> Ran:
    return request.getfixturevalue(request.param)


def metrics(task: TrainTask) -> list[dict[str, Any]]:
    return list(read_parts(Storage(), task.run.metrics))


def check_same_experiment(ours: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for field in ("step", "batch_digest", "samples", "masked", "learning_rate"):
        assert [line[field] for line in ours] == [line[field] for line in expected], field
    for field in ("loss", "grad_norm", "logit_scale"):
        assert [line[field] for line in ours] == pytest.approx([line[field] for line in expected], rel=1e-4)


def test_same_batches_and_losses_on_any_number_of_ranks(one_rank: Ran, ran: Ran) -> None:
    assert set(ran.outcomes["plain"]) == {Outcome(STEPS)}
    ours, expected = metrics(ran.tasks["plain"]), metrics(one_rank.tasks["plain"])
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    assert len({line["batch_digest"] for line in ours}) == STEPS
    assert {line["world_size"] for line in ours} == {len(ran.outcomes["plain"])}
    assert ours[0]["learning_rate"] == pytest.approx(5e-4)
    check_same_experiment(ours, expected)


def test_each_step_says_where_its_time_went_and_what_was_read(ran: Ran) -> None:
    lines = metrics(ran.tasks["plain"])
    phases = {"data", "forward", "gather", "backward", "update"}
    assert lines[0]["phase_seconds"].keys() == phases, "what it took to start is no step's"
    assert all(line["phase_seconds"].keys() == {*phases, "save"} for line in lines[1:])
    spent = [sum(line["phase_seconds"][phase] for phase in phases) for line in lines]
    whole = [pytest.approx(8 / line["samples_per_second"], rel=0.1, abs=0.05) for line in lines]
    # A process may stand still between its two looks at the clock.
    assert sum(phases == step for phases, step in zip(spent, whole, strict=True)) >= len(lines) - 1, (spent, whole)
    # 7 steps of 8 take all of the shards once, and some of them again.
    assert sum(line["storage_bytes"] for line in lines) > 0
    assert {line["storage_bytes"] for line in lines} != {0}


def test_goes_on_from_a_checkpoint_of_any_number_of_ranks(one_rank: Ran, ran: Ran) -> None:
    assert set(ran.outcomes["resumed"]) == {Outcome(STEPS)}
    ours = metrics(ran.tasks["resumed"])
    assert {line["attempt"] for line in ours} == {2}
    check_same_experiment(ours, metrics(one_rank.tasks["plain"])[COMMITTED:])


def test_commits_every_few_steps_and_at_the_end(ran: Ran) -> None:
    storage, masked = Storage(), 0
    for name, first in (("plain", 0), ("resumed", COMMITTED)):
        task = ran.tasks[name]
        committed = [verify(storage, task.run.checkpoint(step)) for step in committed_steps(storage, task.run)]
        # The save after step 6 is left to step 7 where that of step 3 takes so long.
        steps = [manifest.step for manifest in committed]
        assert steps in ([step for step in all_ if step > first] for all_ in ([3, 6, 7], [3, 7]))
        assert {manifest.spec_hash for manifest in committed} == {task.plan.spec_hash}
        assert {manifest.index_fingerprint for manifest in committed} == {task.plan.index_fingerprint}
        assert {manifest.world_size for manifest in committed} == {len(ran.outcomes[name])}
    # The count of masked samples goes on over a resume.
    masked = sum(line["masked"] for line in metrics(ran.tasks["plain"]))
    assert masked > 0
    for name in ("plain", "resumed"):
        assert read_manifest(storage, ran.tasks[name].run.checkpoint(STEPS)).masked_samples == masked


def test_evaluations_take_the_average(one_rank: Ran, ran: Ran) -> None:
    def texts(task: TrainTask, *, raw: bool = False) -> NDArray[np.float32]:
        encoder = Encoder.of_checkpoint(task.spec, task.run, task.run.checkpoint(STEPS), raw=raw)
        return encoder.texts(["one", "two", "three"], batch=3)

    expected = texts(one_rank.tasks["plain"])
    for name in ("plain", "resumed"):
        np.testing.assert_allclose(texts(ran.tasks[name]), expected, atol=1e-5)
        assert np.abs(texts(ran.tasks[name], raw=True) - expected).max() > 5e-3


def test_masked_samples_are_listed(one_rank: Ran, ran: Ran) -> None:
    def listed(task: TrainTask) -> list[tuple[Any, ...]]:
        records = read_parts(Storage(), task.run.bad_samples)
        return sorted((r["step"], Path(r["uri"]).name, r["place"], r["key"], r["cause"]) for r in records)

    ours = listed(ran.tasks["plain"])
    assert ours == listed(one_rank.tasks["plain"])
    # Sample 20 of 41, dealt out over 3 shards.
    assert {entry[1:] for entry in ours} == {("00002.tar", 6, "000020006", "undecodable")}


def test_a_stop_request_commits_and_ends_early(two_ranks: Ran) -> None:
    task = two_ranks.tasks["stopped"]
    (outcome,) = set(two_ranks.outcomes["stopped"])
    assert 1 <= outcome.step < 5000
    assert verify(Storage(), task.run.checkpoint(outcome.step)).step == outcome.step
    assert metrics(task)[-1]["step"] == outcome.step


def test_a_run_that_cannot_save_ends_on_all_ranks_with_the_cause(two_ranks: Ran) -> None:
    task = two_ranks.tasks["unsaved"]
    ((kind, message),) = set(two_ranks.outcomes["unsaved"])
    assert kind == "StorageError"
    assert re.match(
        r"no checkpoint could be committed for [\d.]+ minutes, since step 3, and training does not", message
    )
    assert f"{task.run.checkpoint(3)}/" in message
    assert message.endswith("Check the path")
    assert metrics(task)[-1]["step"] >= 3


def test_a_run_that_another_attempt_has_taken_over_ends_without_a_commit(two_ranks: Ran) -> None:
    task = two_ranks.tasks["fenced"]
    ((kind, message),) = set(two_ranks.outcomes["fenced"])
    assert (kind, "was replaced by attempt 2" in message) == ("FencedError", True)
    assert committed_steps(Storage(), task.run) == []


def test_too_many_bad_samples_end_the_run_on_all_ranks(two_ranks: Ran) -> None:
    task = two_ranks.tasks["bad"]
    ((kind, message),) = set(two_ranks.outcomes["bad"])
    lines = metrics(task)
    masked, samples = sum(line["masked"] for line in lines), lines[-1]["samples"]
    # Ten batches' share, 8 samples, is allowed in any case.
    assert masked > 8
    assert masked - lines[-1]["masked"] <= 8
    assert kind == "DataError"
    assert message == (
        f"{masked} of {samples} samples so far could not be used (undecodable {masked} in this attempt), "
        "more than data.max_bad_fraction 0.1 allows. They are listed in bad_samples/ of the run directory; "
        "mend the shards, or raise the fraction."
    )
    assert len(list(read_parts(Storage(), task.run.bad_samples))) == masked


def test_a_loss_that_is_no_number_ends_the_run_on_all_ranks(two_ranks: Ran) -> None:
    task = two_ranks.tasks["diverged"]
    ((kind, message),) = set(two_ranks.outcomes["diverged"])
    step = metrics(task)[-1]["step"]
    assert kind == "DivergedError"
    assert message in (
        f"the {what} of step {step} is {value}. Lower training.optimizer.learning_rate, warm up longer, or "
        "lower objective.logit_scale.max."
        for what in ("loss", "gradient's norm")
        for value in ("nan", "inf")
    )
    assert not [info for info in Storage().list(task.run.checkpoints) if f"{step:08d}" in info.uri]


def test_metrics_say_how_the_step_went(one_rank: Ran, ran: Ran) -> None:
    lines, expected = metrics(ran.tasks["plain"]), metrics(one_rank.tasks["plain"])
    ranks = len(ran.outcomes["plain"])
    for line in lines:
        assert (line["gathered_bytes"] > 0) == (ranks > 1)
        assert line["micro_batch"] == -(-8 // {1: 1, 2: 2, 3: 2}[ranks])
        assert line["skipped"] is False
        assert (line["health"] is not None) == (line["step"] % 2 == 0)
    for ours, theirs in zip(lines, expected, strict=True):
        if ours["health"]:
            assert ours["health"]["duplicates"] == theirs["health"]["duplicates"]
            for figure in ("alignment", "loss_floor", "uniformity", "mean_cosine", "effective_rank"):
                assert ours["health"][figure] == pytest.approx(theirs["health"][figure], rel=1e-3), figure


def test_under_torchrun(folder: Path, shards: Path, one_rank: Ran) -> None:
    """Goes on from the newest checkpoint that was committed."""
    run = folder / "torchrun"
    task = write_run(run, shards)
    for step in (COMMITTED, 6):
        shutil.copytree(folder / f"plain-1/checkpoints/step-{COMMITTED:08d}", run / f"checkpoints/step-{step:08d}")
    (run / "checkpoints/step-00000006/manifest.json").unlink()
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "workers.train"]
    done = subprocess.run(
        [sys.executable, *command, str(run)],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_same_experiment(metrics(task), metrics(one_rank.tasks["plain"])[COMMITTED:])
    assert json.loads((run / "checkpoints/step-00000007/manifest.json").read_text())["world_size"] == 2
    assert attempts(Storage(), task.run) == [1]
