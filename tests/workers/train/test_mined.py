"""A job that mines: each attempt trains with one version of the negatives, and ends where the next one begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobspecs.errors import DataError
from tests.ranks import run_ranks
from tests.workers.mining_job import write_pairs, write_run, write_table
from workers.run import read_parts
from workers.storage import Storage
from workers.train.loop import train
from workers.train.task import Outcome, TrainTask


def _train_from(task: TrainTask, starts: list[int]) -> list[Outcome | str]:
    """Attempts from each of the steps."""
    outcomes: list[Outcome | str] = []
    for number, start in enumerate(starts, start=1):
        resume_from = task.run.checkpoint(start) if start else None
        try:
            outcomes.append(train(replace(task, attempt=number, resume_from=resume_from)))
        except DataError as error:
            outcomes.append(str(error))
    return outcomes


def metrics(task: TrainTask) -> list[dict[str, Any]]:
    return list(read_parts(Storage(), task.run.metrics))


def test_versions_change_where_the_plan_says_on_any_number_of_ranks(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data")
    one, two = (write_run(tmp_path / name, tmp_path / "data") for name in ("one", "two"))
    first, other = write_table(one.run, 1), write_table(two.run, 1)
    assert first.digest == other.digest != write_table(two.run, 2).digest
    ((outcome, failed),) = run_ranks(_train_from, 1, one, [0, 3])
    assert outcome == Outcome(3), "it comes to an end for the second version"
    assert "v00002 holds no negatives: they are mined by the driver" in str(failed)
    assert run_ranks(_train_from, 2, two, [0, 3]) == [[Outcome(3), Outcome(6)]] * 2
    ours, expected = metrics(two), metrics(one)
    assert [line["negatives"] for line in ours] == [1, 1, 1, 2, 2, 2]
    assert [line["batch_digest"] for line in ours[:3]] == [line["batch_digest"] for line in expected]
    assert [line["loss"] for line in ours[:3]] == pytest.approx([line["loss"] for line in expected], rel=1e-4)
