"""Correlations against scipy's, ties included, and of a collapsed model; the task end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from jobspecs.data import EvaluationData
from jobspecs.errors import DataError
from jobspecs.evaluation import Sts
from tests.workers.evaluate.test_tasks import text_encoder
from workers.data.demo_tar import TextPair, pack_shard
from workers.evaluate.bootstrap import value
from workers.evaluate.sts import pearson, spearman, sts


@pytest.mark.parametrize("decimals", [0, 1, 15])
def test_correlations_are_scipys(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    gold = rng.integers(0, 6, 200).astype(float)
    cosines = np.round(gold / 8 + rng.normal(0, 0.2, 200), decimals)
    assert value(spearman(cosines, gold), 200) == pytest.approx(scipy.stats.spearmanr(cosines, gold)[0])
    assert value(pearson(cosines, gold), 200) == pytest.approx(scipy.stats.pearsonr(cosines, gold)[0])


def test_cosines_that_differ_by_rounding_correlate_with_nothing() -> None:
    gold = np.arange(50.0)
    collapsed = 0.7 + gold * 1e-8
    assert value(spearman(collapsed, gold), 50) == value(pearson(collapsed, gold), 50) == 0


def spec_of(folder: Path, rows: list[tuple[str, str, object]], **fields: object) -> Sts:
    folder.mkdir(parents=True, exist_ok=True)
    facts = [{"sentence1": first, "sentence2": second, "score": score} for first, second, score in rows]
    (folder / "00000.tar").write_bytes(pack_shard(0, [TextPair("", "", (), each) for each in facts]))
    data = EvaluationData(urls=[f"{folder}/*.tar"])
    return Sts.model_validate({"kind": "sts", "name": "similar", "data": data} | fields)


def test_sts(tmp_path: Path) -> None:
    """Letters are directions, 10° apart (`Lookup`)."""
    rows: list[tuple[str, str, object]] = [("a", "a", 5), ("a", "c", 4.5), ("d", "b", 3), ("a", "f", 3), ("j", "a", 0)]
    found = sts(spec_of(tmp_path, rows), text_encoder())
    cosines = np.cos(np.radians([0, 20, 20, 50, 90]))
    gold = [5, 4.5, 3, 3, 0]
    assert found.main == "spearman"
    assert found.scores["spearman"] == pytest.approx(scipy.stats.spearmanr(cosines.round(6), gold)[0], abs=0.06)
    assert found.scores["pearson"] == pytest.approx(scipy.stats.pearsonr(cosines, gold)[0])
    assert (found.samples, found.skipped, found.chance, found.higher_is_better) == (5, 0, 0.0, True)
    assert found.interval[0] <= found.scores["spearman"] <= found.interval[1]
    documents = sts(spec_of(tmp_path, rows, side="document"), text_encoder())
    assert documents.scores == pytest.approx(found.scores), "with the prefix of documents, which `Lookup` demands"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "b", 1), ("b", "c", "high")], "a sample's json has no number in the field 'score'. Set score_column "
            "and score_field to where the score of the pair stands."),
        ([("a", "b", 1), ("b", None, 2)], "a .json has no text in the field 'sentence2'. Set first and second to "
            "the texts."),
        ([("a", "b", 1), ("b", "c", 1)], "needs two pairs at least with different scores, found 1 different ones of 2 "
            "pairs. Check score_column and score_field."),
    ],
)  # fmt: skip
def test_what_is_missing(tmp_path: Path, rows: list[tuple[str, str, object]], message: str) -> None:
    with pytest.raises(DataError) as raised:
        sts(spec_of(tmp_path, rows), text_encoder())
    assert str(raised.value).removeprefix("evaluation 'similar'").lstrip(": ") == message
