"""What a section `mining` must hold, and which jobs may have one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobspecs.load import loads
from tests.jobspecs.conftest import changed_fields

Wrong = Callable[..., list[str]]
TEXTS = (
    "objective.kind=text_text",
    "data.image=",
    "data.text=",
    "data.query={}",
    "data.document={}",
    "model.image=",
    "evaluations=[]",
)


def test_what_it_takes(example: str, wrong: Wrong) -> None:
    assert wrong(example, "mining={}") == []
    assert wrong(example, *TEXTS, "mining={model: bm25}") == []


@pytest.mark.parametrize(
    ("section", "place", "words"),
    [
        ("{ranks: {first: 9, last: 8}}", "mining.ranks.last", "last 8 is below first 9"),
        ("{count: 4, ranks: {first: 2, last: 4}}", "mining.count",
            "4 negatives can't come from 3 ranks\n    Lower it, or raise ranks.last."),
        ("{model: bm25}", "mining.model",
            "bm25 compares words, and objective image_text looks for texts by image\n    Name a run or a checkpoint."),
    ],
)  # fmt: skip
def test_what_does_not_fit(example: str, wrong: Wrong, section: str, place: str, words: str) -> None:
    (fault,) = wrong(example, f"mining={section}")
    assert place in fault
    assert fault.endswith(words)


IN_JOB = "mining={model: bm25, before_training: true}"


@pytest.mark.parametrize(
    ("overrides", "place", "words"),
    [
        ((*TEXTS, "mining={before_training: true}"), "mining.model",
            "'model' is missing: before its first step the job has no checkpoint to mine by\n    Name bm25, a run or a "
            "checkpoint; or leave before_training out, and every_steps mines later."),
        ((*TEXTS, "mining={model: bm25, every_steps: 9}"), "mining.model",
            "bm25 would mine nothing: every so many steps the job's newest checkpoint does\n    Set before_training: "
            "true, or leave model out."),
        (("mining={every_steps: 9}",), "mining.every_steps",
            "objective image_text does not train with hard negatives\n    Leave it out; `tandem mine` writes them into "
            "tars for other trainers."),
        ((*TEXTS, IN_JOB), "data.negatives",
            "'negatives' is missing: the job mines, and this says how many of them go with each query\n    Write "
            "`negatives: {count: 1}` or more."),
        ((*TEXTS, IN_JOB, "data.negatives={column: hard.json}"), "data.negatives.column",
            "hard.json would not be read: the job mines its negatives itself\n    Leave it out, or leave "
            "mining.before_training out."),
        ((*TEXTS, IN_JOB, "data.negatives={count: 9}"), "data.negatives.count",
            "9 negatives a query, and at most 8 are mined (mining.count)\n    Raise mining.count, or lower this."),
    ],
)  # fmt: skip
def test_a_job_that_could_not_train_with_what_it_mines(
    example: str, wrong: Wrong, overrides: tuple[str, ...], place: str, words: str
) -> None:
    (fault,) = wrong(example, *overrides)
    assert place in fault
    assert fault.endswith(words)


def test_mining_is_part_of_the_experiment_where_the_job_does_it(example: str) -> None:
    texts = (*TEXTS, "data.negatives={}")
    alone, other = (loads(example, overrides=(*texts, f"mining={{count: {count}}}")) for count in (8, 9))
    assert alone.experiment_hash() == other.experiment_hash() == loads(example, overrides=texts).experiment_hash()
    job = loads(example, overrides=(*texts, "mining={every_steps: 100}"))
    assert {path for path in job.experiment() if path.startswith("mining.")} > {"mining.every_steps", "mining.count"}
    assert changed_fields(job, loads(example, overrides=(*texts, "mining={every_steps: 90}"))) == [
        "mining.every_steps: 100 -> 90"
    ]


def test_two_views_have_nothing_to_be_mined(example: str, wrong: Wrong) -> None:
    overrides = (
        "objective={kind: two_view, loss: {kind: ntxent}}",
        "data.image.views=2",
        "data.text=",
        "model.text=",
        "evaluations=[]",
    )
    assert wrong(example, *overrides) == []
    (fault,) = wrong(example, *overrides, "mining={}")
    assert fault.endswith("objective two_view has no pairs to mine for\n    Those of text_text and image_text have.")
