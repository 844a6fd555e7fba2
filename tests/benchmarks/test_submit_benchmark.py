"""The benchmark of submissions: what it makes of moments, and that both contestants have the same model."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from jobspecs.load import load
from tests.benchmarks import submit_bare
from tests.benchmarks.submit import AIMS, Start, summary, table
from tests.orchestrator.conftest import EXAMPLE
from workers.data.tokenize import byte_tokenizer
from workers.models.build import tower_sizes

FOUND = {
    "tandem": [Start(10.0, 12.0, 25.0), Start(10.0, 13.0, 28.0), Start(10.0, 11.0, 22.0)],
    "bare": [Start(10.0, 11.0, 20.0), Start(10.0, 11.0, 22.0), Start(10.0, 11.5, 22.5)],
}


def test_the_ratio_is_that_of_medians() -> None:
    told = summary(FOUND)
    assert (told["ratios"], told["aims"]) == ({"submit": 0.8}, AIMS)
    assert (told["benchmark"], list(told)[-1]) == ("submit", "machine")


def test_the_table_shows_medians_and_the_range() -> None:
    shown = io.StringIO()
    Console(file=shown, width=88).print(table(FOUND))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.getvalue().splitlines() if "│" in line]
    assert rows == [["tandem", "2.00", "13.00", "15.00", "3.00"], ["bare", "1.00", "11.00", "12.00", "1.25"]]


def test_moments_out_of_order_are_no_start() -> None:
    with pytest.raises(AssertionError, match="out of order"):
        Start(10.0, 12.0, 11.0)


def test_the_bare_script_trains_the_same_model() -> None:
    spec = load(EXAMPLE)
    ours = sum(size.trained for size in tower_sizes(spec.model, spec.data, {"text": byte_tokenizer()}).values())
    theirs = sum(parameter.numel() for parameter in submit_bare.Clip().parameters())
    assert theirs == ours + 1, "the temperature"
    assert spec.training.global_batch == submit_bare.GLOBAL_BATCH
