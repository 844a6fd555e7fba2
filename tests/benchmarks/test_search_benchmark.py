"""The benchmark of the search, at a tiny size, where FAISS is installed beside the environment."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "build" / "benchmarks" / "peers_search"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="FAISS is not installed: `make peers` does it")


def test_both_find_the_same_and_the_ratio_is_larger_where_tandem_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    assert importlib.util.find_spec("faiss"), sys.path
    from tests.benchmarks.search import AIMS, Plan, Round, measure, summary

    rounds = measure(Plan(candidates=3000, queries=40, width=16, k=10, threads=1, rounds=2))
    assert all(len(of_name) == 2 and min(each.seconds for each in of_name) > 0 for of_name in rounds.values())
    told = summary({"tandem": [Round(1.0, 1.0), Round(2.0, 1.0)], "faiss": [Round(3.0, 1.0), Round(1.5, 1.0)]})
    assert (told["ratios"], told["aims"]) == ({"faiss": 1.5}, AIMS)
    assert (told["benchmark"], list(told)[-1]) == ("search", "machine")
