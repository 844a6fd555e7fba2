"""The benchmark of mined negatives: its jobs, its random negatives, and what it makes of the scores."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.mined import LISTED, job, random_negatives, summary, table


def test_only_the_negatives_differ() -> None:
    random, mined = (job(Path("/data"), kind, 1, 160, 128, 2) for kind in ("random", "mined"))
    assert mined.mining is not None
    assert mined.mining.every_steps == 80
    assert mined.model_copy(update={"mining": None, "name": random.name}) == random


def test_random_negatives_are_never_the_answer() -> None:
    documents = [f"document {number}" for number in range(LISTED + 1)]
    for number in range(20):
        drawn = random_negatives(documents, documents[number % len(documents)], 0, number)
        assert len(set(drawn)) == LISTED
        assert documents[number % len(documents)] not in drawn
    assert random_negatives(documents, "", 0, 1) != random_negatives(documents, "", 0, 2)


def test_the_table_has_means_and_spreads() -> None:
    found = {
        "random": [{"nDCG@10": 0.1, "MRR@10": 0.2}, {"nDCG@10": 0.2, "MRR@10": 0.2}],
        "mined": [{"nDCG@10": 0.2, "MRR@10": 0.1}, {"nDCG@10": 0.25, "MRR@10": 0.1}],
    }
    assert table(found).splitlines() == [
        "| hard negatives | nDCG@10 | MRR@10 |",
        "|---|---|---|",
        "| random | 0.150 ± 0.050 | 0.200 ± 0.000 |",
        "| mined | 0.225 ± 0.025 | 0.100 ± 0.000 |",
        "| mined - random | +0.075 ± 0.025 | -0.100 ± 0.000 |",
    ]
    assert summary(found)["ratios"] == {"nDCG@10 by random": 1.5, "MRR@10 by random": 0.5}
