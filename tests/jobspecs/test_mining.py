"""What a section `mining` must hold, and which jobs may have one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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
