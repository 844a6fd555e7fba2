"""What a job takes, as `tandem plan` says."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from rich.console import Console

from jobspecs.load import load
from orchestrator.costs import Costs, TowerCosts, costs_of, reduced_bytes, warnings_of
from orchestrator.costs_view import show_costs
from orchestrator.goodput import RESTART_SECONDS, goodput, stall_seconds
from orchestrator.prepare import Prepared, prepare
from tests.orchestrator.conftest import EXAMPLE, overrides


@pytest.fixture
def job(digits: Path, tmp_path: Path) -> Prepared:
    return prepare(load(EXAMPLE, overrides(digits, tmp_path, "cluster.workers=2")), only_plan=True)


def test_the_costs_of_a_job(job: Prepared) -> None:
    costs = costs_of(job, seconds_per_step=1.0)
    assert costs is not None
    assert costs.goodput is not None
    assert costs.parameters == sum(tower.parameters for tower in costs.towers.values())
    assert costs.checkpoint_bytes == 3 * 4 * costs.parameters
    assert costs.reduced_bytes_per_step == 4 * costs.parameters  # half of it there, half of it back, on two ranks
    batches = 1000 / job.plan.global_batch
    assert costs.storage_bytes_per_second == round(costs.read_bytes_per_step * batches)
    network = costs.reduced_bytes_per_step + job.plan.gathered_bytes_per_step
    assert costs.network_bytes_per_second == round(network * batches)
    memory = costs.device_memory
    assert memory["peak"] <= sum(size for name, size in memory.items() if name != "peak")
    assert costs.goodput.interval_seconds == job.spec.checkpoint.every_steps


def test_the_rate_that_is_aimed_at_may_be_another(job: Prepared) -> None:
    usual, other = costs_of(job), costs_of(job, samples_per_second=3_000)
    assert usual is not None
    assert other is not None
    assert (usual.samples_per_second, other.samples_per_second) == (1_000, 3_000)
    assert other.storage_bytes_per_second == pytest.approx(3 * usual.storage_bytes_per_second, abs=2)
    assert other.network_bytes_per_second == pytest.approx(3 * usual.network_bytes_per_second, abs=2)


@pytest.mark.parametrize(
    ("steps", "minutes", "step_seconds", "seconds"),
    [
        (100, None, 2.0, 200),
        (100, None, None, None),
        (None, 10, None, 600),
        (None, 10, 2.0, 600),
        (100, 10, 2.0, 200),
        (1000, 10, 2.0, 600),
        (1000, 10, None, None),
    ],
)
def test_commits_come_by_steps_or_by_minutes(
    job: Prepared, steps: int | None, minutes: float | None, step_seconds: float | None, seconds: float | None
) -> None:
    """Whichever comes first: nobody knows that who does not know how long a step takes."""
    checkpoint = job.spec.checkpoint.model_copy(update={"every_steps": steps, "every_minutes": minutes})
    costs = costs_of(
        replace(job, spec=job.spec.model_copy(update={"checkpoint": checkpoint})), seconds_per_step=step_seconds
    )
    assert costs is not None
    assert (None if costs.goodput is None else costs.goodput.interval_seconds) == seconds


def test_what_filters_leave_out_is_read_too(job: Prepared) -> None:
    (index,) = job.indexes
    few = replace(index, samples=index.samples // 2)
    less, more = costs_of(job), costs_of(replace(job, indexes=(few,)))
    assert less is not None
    assert more is not None
    assert more.read_bytes_per_step == pytest.approx(2 * less.read_bytes_per_step, rel=0.01)


def test_costs_wait_for_a_tokenizer(job: Prepared) -> None:
    assert costs_of(replace(job, tokenizers={})) is None


@pytest.mark.parametrize(
    ("stage", "weights"),
    [(0, 2), (1, 2), (2, 2), (3, 3)],
)
def test_what_is_reduced(stage: int, weights: int) -> None:
    assert reduced_bytes(stage, 100, 100, 4) == weights * 4 * 100 * 3 / 4
    assert reduced_bytes(stage, 100, 100, 1) == 0


def test_frozen_parameters_are_gathered_at_stage_3_alone() -> None:
    assert reduced_bytes(1, 100, 10, 2) == 2 * 4 * 10 / 2
    assert reduced_bytes(3, 100, 10, 2) == 4 * (10 + 2 * 100) / 2


WARNED = {
    "shards for": {"shards": 3, "lanes": 16},
    "rows that only pad. Use 4 or 8 workers": {
        "workers": 6,
        "padding_rows": 64,
        "global_batch": 128,
        "even_workers": (1, 2, 4, 8, 16),
    },
    "A pass is a single batch": {"steps_per_pass": 1},
    "warms up for 90 steps, and the job has 50": {"total_steps": 50},
    "one commit, at the end": {"checkpoints": 1},
}


@pytest.mark.parametrize("warning", WARNED)
def test_warnings(job: Prepared, warning: str) -> None:
    quiet = replace(job.plan, shards=99, padding_rows=0, steps_per_pass=11, total_steps=1000)
    assert not warnings_of(job.spec, quiet)
    assert any(warning in line for line in warnings_of(job.spec, replace(quiet, **WARNED[warning])))


def test_one_worker_is_told_that_it_has_no_zero(job: Prepared) -> None:
    spec = job.spec.model_copy(update={"training": job.spec.training.model_copy(update={"zero_stage": 2})})
    for workers, told in ((1, True), (2, False)):
        plan = replace(job.plan, shards=99, padding_rows=0, steps_per_pass=11, total_steps=1000, workers=workers)
        assert told is any("whatever training.zero_stage says (2)" in line for line in warnings_of(spec, plan))


def test_goodput() -> None:
    """The best interval is better than its neighbours; without failures' costs all time is good."""
    found = goodput(600.0, stall=0.5, failures_per_day=24.0)
    assert found.best_interval_seconds == pytest.approx(math.sqrt(2 * 0.5 * 3600))
    assert found.best_fraction > found.fraction
    for factor in (0.5, 2.0):
        assert goodput(found.best_interval_seconds * factor, 0.5, 24.0).fraction < found.best_fraction
    expected = (1 - (RESTART_SECONDS + 300) / 3600) / (1 + 0.5 / 600)
    assert found.fraction == pytest.approx(expected)
    assert goodput(1e9, 0.5, 24.0).fraction == 0.0, "an interval that never ends loses all"
    assert stall_seconds(3.6e9, 2) == pytest.approx(0.21)


def test_a_restart_takes_what_the_readme_says() -> None:
    readme = (EXAMPLE.parents[2] / "README.md").read_text()
    (row,) = re.findall(r"^\| Tandem, after the loss of a worker \|.*\| (.*?) \|$", readme, re.MULTILINE)
    assert round(median(map(float, row.split(", ")))) == RESTART_SECONDS


def test_the_table_tells_parts_and_notes() -> None:
    costs = Costs(
        towers={"image": TowerCosts(1_500_000, 0), "text": TowerCosts(2_000, 2_000)},
        parameters=1_502_000,
        device="cuda",
        device_memory={"parameters": 2**20, "optimizer": 0, "peak": 2**21},
        host_memory=2**30,
        reduced_bytes_per_step=1024,
        read_bytes_per_step=1024,
        samples_per_second=2_500,
        network_bytes_per_second=1024,
        storage_bytes_per_second=1024,
        checkpoint_bytes=2**20,
        goodput=goodput(600.0, 0.5, 24.0),
    )
    console = Console(width=100, record=True)
    show_costs(console, costs, ["Mind the [gap]."])
    shown = console.export_text()
    assert "1.5M: image 1.5M (frozen), text 2.0k" in shown
    assert "memory of a CUDA rank" in shown
    assert "about 2.0 MiB at most: parameters 1.0 MiB" in shown
    assert "with a commit each 10 min" in shown
    assert "2,500 samples/s need" in shown
    assert "Mind the [gap]." in shown
    show_costs(console, None, ["Mind it all the same."])
    shown = console.export_text()
    assert "plan again after the start" in shown
    assert "Mind it all the same." in shown
