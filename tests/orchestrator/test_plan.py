"""The plan: arithmetic on a spec and an index."""

from __future__ import annotations

import json

import pytest

from jobspecs.errors import DataError, UsageError
from jobspecs.job import JobSpec
from jobspecs.load import load
from orchestrator.plan import Plan, fix, make
from tests.orchestrator.conftest import EXAMPLE
from workers.data.index import Index
from workers.data.order import lanes_of_rank
from workers.data.scan import Scan
from workers.storage import ObjectInfo


def index(*samples: int, name: str = "digits") -> tuple[Index, ...]:
    """The index of one source whose shards hold so many samples."""
    shards = [ObjectInfo(f"file:///{name}/{number:05d}.tar", 1000, "e") for number in range(len(samples))]
    return (Index.of(name, "", shards, [Scan.of(count) for count in samples]),)


def spec(*overrides: str) -> JobSpec:
    return load(EXAMPLE, overrides)


@pytest.mark.parametrize(
    ("length", "steps"),
    [("steps=7", 7), ("passes=3", 3 * 10), ("samples=1000", 8), ("samples=1024", 8), ("samples=1025", 9)],
)
def test_length_in_steps_passes_or_samples(length: str, steps: int) -> None:
    unset = () if length.startswith("steps") else ("training.steps=null",)
    assert fix(spec(*unset, f"training.{length}"), index(700, 600)).total_steps == steps


def test_the_layout_does_not_depend_on_the_workers() -> None:
    fixed = [fix(spec(f"cluster.workers={workers}"), index(700, 600)) for workers in (1, 2, 3, 7, 16)]
    assert len(set(fixed)) == 1


def test_lanes_given_or_found() -> None:
    assert fix(spec("data.lanes=4"), index(700, 600)).layout.lanes == 4
    assert fix(spec("training.global_batch=96"), index(700, 600)).layout.lanes == 12


def test_a_batch_larger_than_the_data() -> None:
    with pytest.raises(DataError, match="global_batch 128 is larger than the data: source 'digits' has 127"):
        fix(spec(), index(100, 27))


def mixture(*weights: float | None) -> JobSpec:
    """The example with two sources of these weights."""
    sources = [
        {"name": name, "urls": [f"{name}/*.tar"], "weight": weight}
        for name, weight in zip(("digits", "letters"), weights, strict=True)
    ]
    return spec(f"data.sources={json.dumps(sources)}")


TWO = index(700, 600) + index(80, name="letters")


@pytest.mark.parametrize(
    ("weights", "slots", "steps"),
    [
        ((3, 1), (96, 32), (13, 2)),
        ((None, None), (121, 7), (10, 11)),
        ((1, 2), (43, 85), None),
        ((1, 1000), (0, 128), None),
    ],
)
def test_sources_have_their_share_of_the_slots(
    weights: tuple[float | None, ...], slots: tuple[int, ...], steps: tuple[int, ...] | None
) -> None:
    """80 letters are less than 85 slots; and a share of less than one slot is none."""
    one = mixture(*weights)
    if steps is None:
        with pytest.raises(DataError, match=r"too small a share|of which it has 85 samples"):
            fix(one, TWO)
        return
    fixed = fix(one, TWO)
    assert fixed.layout.slots == slots
    plan = make(one, TWO, fixed, "file:///runs/x")
    assert [source.slots for source in plan.sources] == list(slots)
    assert [source.steps_per_pass for source in plan.sources] == list(steps)
    assert plan.steps_per_pass == max(steps)
    assert (plan.shards, plan.samples) == (3, 1380)


def test_passes_are_those_of_the_source_that_takes_longest() -> None:
    one = mixture(3, 1).model_copy(update={"training": spec("training.steps=null", "training.passes=2").training})
    assert fix(one, TWO).total_steps == 2 * 13


def test_more_workers_than_lanes() -> None:
    fixed = fix(spec(), index(700, 600))
    with pytest.raises(UsageError, match=r"cluster\.workers is 17, but the run has 16 lanes"):
        make(spec("cluster.workers=17"), index(700, 600), fixed, "file:///runs/x")


def test_the_plan_of_an_elastic_job() -> None:
    """It runs on useful sizes in its range; what is planned is the most workers, but the memory of the fewest."""

    def planned(workers: str) -> Plan:
        one = spec(f"cluster.workers={workers}")
        return make(one, index(700, 600), fix(one, index(700, 600)), "file:///runs/x")

    plan = planned("{min: 2, max: 9}")
    assert plan.useful_workers == (1, 2, 3, 4, 6, 8, 16)
    assert plan.possible_workers == (2, 3, 4, 6, 8)
    assert (plan.workers, plan.rows_per_rank) == (8, 2 * 8)
    assert plan.loader_memory == planned("2").loader_memory
    assert planned("7").possible_workers == (7,)


def test_an_elastic_job_whose_fewest_workers_are_more_than_lanes() -> None:
    one = spec("cluster.workers={min: 17, max: 32}")
    with pytest.raises(UsageError, match=r"cluster\.workers is 17 or more, but the run has 16 lanes"):
        make(one, index(700, 600), fix(one, index(700, 600)), "file:///runs/x")


@pytest.mark.parametrize("workers", range(1, 17))
def test_rows_and_padding(workers: int) -> None:
    one = spec(f"cluster.workers={workers}")
    plan = make(one, index(700, 600), fix(one, index(700, 600)), "file:///runs/x")
    lanes = [len(lanes_of_rank(rank, workers, 16)) for rank in range(workers)]
    assert plan.rows_per_rank == max(lanes) * 8
    assert plan.padding_rows == sum(max(lanes) - n for n in lanes) * 8
    assert (workers in plan.even_workers) == (plan.padding_rows == 0)


def test_checkpoint_steps_end_with_the_last_step() -> None:
    def commits(*overrides: str) -> tuple[tuple[int, ...], int]:
        one = spec(*overrides)
        plan = make(one, index(700, 600), fix(one, index(700, 600)), "file:///runs/x")
        return plan.checkpoint_steps, plan.checkpoints

    assert commits("checkpoint.every_steps=150") == ((150, 300, 350), 3)
    assert commits("checkpoint.every_steps=350") == ((350,), 1)
    assert commits("checkpoint.every_steps=10") == ((10, 20, 30, 40, 350), 35)


def test_gathered_bytes() -> None:
    """By hand for 2 ranks of 64 rows, width 64: features there and gradients back 64·64·4 B each; the positives'
    logits, and an all-reduce of sums over 128 columns, 4 B each; identity, weight and two keys 8 B each a row, and
    one row more."""
    plan = make(spec("cluster.workers=2"), index(700, 600), fix(spec(), index(700, 600)), "file:///runs/x")
    assert plan.rows_per_rank == 64
    assert plan.gathered_bytes_per_step == 2 * 64 * 64 * 4 + 64 * 4 + 128 * 4 + 65 * 32
    alone = make(spec("cluster.workers=1"), index(700, 600), fix(spec(), index(700, 600)), "file:///runs/x")
    assert alone.gathered_bytes_per_step == 0
