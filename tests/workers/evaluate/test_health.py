"""Figures against plain loops, those of training's health, and what a collapsed model has."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from jobspecs.data import EvaluationData
from jobspecs.errors import DataError
from jobspecs.evaluation import Health
from tests.workers.evaluate.test_tasks import text_encoder
from workers.data.demo_tar import TextPair, pack_shard
from workers.evaluate.bootstrap import value
from workers.evaluate.health import _side, health
from workers.sphere import effective_rank, uniformity


def spec_of(folder: Path, pairs: str) -> Health:
    """Pairs as text: `ab ac` are two."""
    samples = [TextPair(pair[0], pair[1], ()) for pair in pairs.split()]
    (folder / "00000.tar").write_bytes(pack_shard(0, samples))
    return Health(kind="health", name="spread", data=EvaluationData(urls=[f"{folder}/*.tar"]))


def test_health(tmp_path: Path) -> None:
    """Letters are directions, 10° apart (`Lookup`)."""
    pairs = "aa ab cf ie eb aa"  # no angle whose cosine is the edge of a bin
    found = health(spec_of(tmp_path, pairs), text_encoder())
    distinct = sorted(set(pairs.split()))
    angles = np.array([[10 * (ord(letter) - ord("a")) for letter in pair] for pair in distinct])

    def cosine(one: float, other: float) -> float:
        return math.cos(math.radians(one - other))

    expected = {"alignment": np.mean([2 - 2 * cosine(*pair) for pair in angles])}
    for side, column in zip(("query", "document"), angles.T, strict=True):
        apart = [cosine(a, b) for a, b in product(column, column) if a != b]
        expected[f"{side}_uniformity"] = math.log(np.mean([math.exp(4 * c - 4) for c in apart]))
        expected[f"{side}_mean_cosine"] = np.mean(apart)
        rows = np.stack([np.cos(np.radians(column)), np.sin(np.radians(column))], 1)
        p = np.linalg.svd(rows, compute_uv=False)
        p /= p.sum()
        expected[f"{side}_effective_rank"] = math.exp(-(p * np.log(p)).sum())
        expected[f"{side}_feature_std"] = rows.std(0).mean()
    expected["uniformity"] = (expected["query_uniformity"] + expected["document_uniformity"]) / 2
    assert found.scores == pytest.approx(expected, abs=1e-6)
    assert (found.main, found.higher_is_better, found.chance) == ("uniformity", False, 0.0)
    assert (found.samples, found.skipped) == (5, 0)
    assert found.interval[0] <= found.scores["uniformity"] <= found.interval[1]
    assert found.histograms is not None
    edges = np.linspace(-1, 1, 41)
    positives = np.histogram([cosine(*pair) for pair in angles], edges)[0] / 5
    # a is paired with a and b: no negatives of each other.
    together = {tuple(pair) for pair in angles.tolist()}
    others = [cosine(a, b) for a, b in product(*angles.T) if (a, b) not in together]
    assert found.histograms.shares["positives"] == pytest.approx(positives)
    assert found.histograms.shares["negatives"] == pytest.approx(np.histogram(others, edges)[0] / len(others), abs=1e-6)


def test_figures_are_those_of_trainings_health() -> None:
    rows = np.random.default_rng(0).standard_normal((60, 8)) + 0.5
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = {name: value(figure.statistic, 60) for name, figure in _side(rows, np.arange(60)).items()}
    cosines = torch.from_numpy(rows @ rows.T)[~torch.eye(60, dtype=torch.bool)]
    assert found["uniformity"] == pytest.approx(uniformity(cosines))
    assert found["effective_rank"] == pytest.approx(effective_rank(torch.from_numpy(rows)))
    assert effective_rank(torch.from_numpy(rows.T)) == pytest.approx(found["effective_rank"]), "by the smaller Gram"


@pytest.mark.parametrize("pairs", ["xa xb xc", "xx yy zz"])
def test_a_collapsed_model_has_chance(tmp_path: Path, pairs: str) -> None:
    collapsed = text_encoder()
    collapsed._model = Constant()  # type: ignore[assignment]
    if len(set(pairs[::3])) == 1:
        with pytest.raises(DataError, match=r"evaluation 'spread' needs two different samples at least. Name more"):
            health(spec_of(tmp_path, pairs), collapsed)
        return
    found = health(spec_of(tmp_path, pairs), collapsed)
    chances = {"uniformity": 0.0, "alignment": 0.0, "effective_rank": 1.0, "feature_std": 0.0, "mean_cosine": 1.0}
    for name, score in found.scores.items():
        assert score == pytest.approx(chances[name.removeprefix("query_").removeprefix("document_")], abs=1e-6)


class Constant(torch.nn.Module):
    """One direction for all."""

    def embed(self, side: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.tensor([[0.6, 0.8]]).repeat(len(inputs["tokens"]), 1)
