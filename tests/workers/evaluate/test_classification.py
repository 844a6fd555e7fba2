"""Nearest neighbours and linear probes against scikit-learn's, and what they do with ties and constants."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from jobspecs.columns import Image
from jobspecs.data import Data, Source
from jobspecs.errors import DataError
from jobspecs.evaluation import Knn, LinearProbe
from workers.evaluate import relevance
from workers.evaluate.classification import LabelledFeatures, accuracies, labelled_features
from workers.evaluate.encode import EncodedImages
from workers.evaluate.knn import knn, votes
from workers.evaluate.linear_probe import INVERSE_PENALTIES, held_out, linear_probe, probed, standardised


class Encoded:
    """Stands for an encoder: the features and labels of `train` and of `data`."""

    def __init__(self, train: NDArray[Any], train_labels: Any, test: NDArray[Any], test_labels: Any) -> None:
        self.sets = {"train.tar": (train, train_labels), "test.tar": (test, test_labels)}
        self.asked: list[tuple[Any, ...]] = []
        self.data = Data(sources=[Source(name="a", urls=["a.tar"])], image=Image(size=8))

    def images(self, urls: list[str], column: str, batch: int, features: str) -> EncodedImages:
        self.asked.append((urls, column, batch, features))
        found, labels = self.sets[urls[0]]
        column_of_image = [json.dumps({"meta": {"class": label}}).encode() for label in labels]
        return EncodedImages(found.astype(np.float32), column_of_image, skipped=len(urls[0]) - 8, fingerprint=urls[0])


def spec_of(kind: str, **fields: Any) -> Any:
    section = {"knn": Knn, "linear_probe": LinearProbe}[kind]
    given = {"train": {"urls": ["train.tar"]}, "data": {"urls": ["test.tar"]}, "label_field": "meta.class"}
    return section.model_validate({"kind": kind, "name": "probe", **given, **fields})


def clouds(
    train: int = 200, test: int = 100, classes: int = 7, width: int = 12, noise: float = 1.0
) -> LabelledFeatures:
    rng = np.random.default_rng(train)
    centres = rng.standard_normal((classes, width))
    labels = [rng.integers(0, classes, n) for n in (train, test)]
    found = [(centres[each] + noise * rng.standard_normal((len(each), width))).astype(np.float32) for each in labels]
    return LabelledFeatures(found[0], labels[0], found[1], labels[1], skipped=0)


# --- nearest neighbours -------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (200, 0.1)])
def test_votes_are_scikit_learns(k: int, temperature: float) -> None:
    found = clouds()
    peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / temperature))
    peer.fit(found.train.astype(np.float64), found.train_labels)
    expected = peer.predict_proba(found.test.astype(np.float64))
    assert votes(found, k, temperature) == pytest.approx(expected, abs=1e-4)
    assert 0.3 < accuracies(expected, found.test_labels)["acc@1"] < 0.95


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = clouds()
    whole = votes(found, 9, 0.07)
    monkeypatch.setattr(relevance, "CHUNK_BYTES", 4 * 200 * 3)
    assert votes(found, 9, 0.07) == pytest.approx(whole, rel=1e-4)


def test_neighbours_that_tie_share_the_places_that_are_left() -> None:
    # One is nearest, three are second, two of those may vote: 2/3 of a vote each.
    train = np.array([[1, 0], [1, 1], [2, 2], [3, 3], [0, 1]], np.float32)
    found = LabelledFeatures(train, np.array([0, 1, 1, 2, 2]), np.array([[1, 0]], np.float32), np.array([0]), 0)
    near, second = 1.0, np.exp((np.sqrt(0.5) - 1) / 0.5)
    expected = np.array([near, 4 / 3 * second, 2 / 3 * second])
    assert votes(found, 3, 0.5)[0] == pytest.approx(expected / expected.sum(), rel=1e-5)


@pytest.mark.parametrize("kind", ["knn", "linear_probe"])
@pytest.mark.parametrize("value", [1.0, 0.0, np.nan, "noise"])
@pytest.mark.parametrize("counts", [[30, 30, 30], [10, 40, 40], [50, 20, 20]])
def test_a_collapsed_model_scores_chance(kind: str, value: float | str, counts: list[int]) -> None:
    rng = np.random.default_rng(0)
    train, test = np.repeat(["a", "b", "c"], counts), np.repeat(["a", "b", "c"], [20, 10, 5])

    def constant(n: int) -> NDArray[Any]:
        if value == "noise":  # as products of other shapes round
            return rng.standard_normal(8) * 0 + 3 + rng.integers(-2, 3, (n, 8)) * 2.0**-23
        return np.full((n, 8), value)

    encoder: Any = Encoded(constant(90), train.tolist(), constant(35), test.tolist())
    scores = {"knn": knn, "linear_probe": linear_probe}[kind](spec_of(kind), encoder)
    by_hand = {30: 1 / 3, 10: 15 / 35 / 2, 50: 20 / 35}[counts[0]]
    assert scores.scores["acc@1"] == pytest.approx(by_hand)
    assert scores.chance == pytest.approx(by_hand)


def test_k_beyond_the_training_images() -> None:
    encoder: Any = Encoded(np.eye(3), [0, 1, 1], np.eye(3), [0, 1, 1])
    with pytest.raises(DataError) as raised:
        knn(spec_of("knn", k=4), encoder)
    assert str(raised.value) == "evaluation 'probe': k is 4, and `train` has 3 images. Lower k."


def test_scores_of_both_kinds() -> None:
    found = clouds()
    encoder: Any = Encoded(found.train, found.train_labels.tolist(), found.test, found.test_labels.tolist())
    near = knn(spec_of("knn", k=9, batch=4), encoder)
    assert near.scores == accuracies(votes(found, 9, 0.07), found.test_labels)
    probe = linear_probe(spec_of("linear_probe", features="embedding", label_column="meta.json"), encoder)
    assert probe.scores == accuracies(probed(found), found.test_labels)
    for scores in (near, probe):
        assert scores.main == "acc@1"
        assert scores.scores.keys() == {"acc@1", "acc@5", "mean_per_class_recall"}
        assert (scores.samples, scores.skipped) == (100, 1)
        assert scores.chance < 0.3 < scores.scores["acc@1"]
    assert encoder.asked == [
        (["train.tar"], "json", 4, "backbone"),
        (["test.tar"], "json", 4, "backbone"),
        (["train.tar"], "meta.json", 256, "embedding"),
        (["test.tar"], "meta.json", 256, "embedding"),
    ]


# --- linear probes ------------------------------------------------------------------------------------


def test_the_probe_is_scikit_learns_at_the_best_penalty() -> None:
    found = clouds(noise=1.5)
    scaler = StandardScaler().fit(found.train.astype(np.float64))
    train, test = scaler.transform(found.train), scaler.transform(found.test)
    chooses = held_out(found.train_labels)

    def fitted(penalty: float, rows: NDArray[np.bool_]) -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return LogisticRegression(C=penalty, max_iter=1000).fit(train[rows], found.train_labels[rows])

    chosen = [fitted(C, ~chooses).score(train[chooses], found.train_labels[chooses]) for C in INVERSE_PENALTIES]
    best = fitted(INVERSE_PENALTIES[int(np.argmax(chosen))], np.ones(len(train), bool))
    assert len(set(chosen)) > 2
    assert probed(found) == pytest.approx(best.predict_log_proba(test), abs=1e-2)
    assert accuracies(probed(found), found.test_labels)["acc@1"] == best.score(test, found.test_labels)


def test_scale_and_shift_of_a_feature_change_nothing() -> None:
    found = clouds(noise=1.5)
    scale, shift = np.logspace(-3, 3, 12).astype(np.float32), np.linspace(-1, 1, 12).astype(np.float32)
    moved = replace(found, train=found.train * scale + shift, test=found.test * scale + shift)
    assert probed(moved) == pytest.approx(probed(found), abs=0.05)


def test_constant_features_become_zero() -> None:
    train = np.array([[1.0, 5.0, 0.0], [3.0, 5.0 + 1e-6, 0.0]], np.float32)
    ours, other = standardised(train, np.array([[2.0, 9.0, 4.0]], np.float32))
    assert ours.tolist() == [[-1, 0, 0], [1, 0, 0]]
    assert other.tolist() == [[0, 0, 0]]


def test_a_fifth_of_each_class_chooses_the_penalty() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 9, 2, 1])
    chosen = held_out(labels)
    assert [chosen[labels == label].sum() for label in range(4)] == [10, 1, 1, 0]
    assert (held_out(labels) == chosen).all()


def test_no_class_with_two_images() -> None:
    encoder: Any = Encoded(np.eye(2), [0, 1], np.eye(2), [0, 1])
    with pytest.raises(DataError) as raised:
        linear_probe(spec_of("linear_probe"), encoder)
    assert str(raised.value) == (
        "evaluation 'probe': no class has two images in `train`, and one of two chooses the penalty. Name more "
        "training data."
    )


# --- labels -------------------------------------------------------------------------------------------


def test_labels_are_numbered_in_their_order() -> None:
    encoder: Any = Encoded(np.eye(5), ["b", 10, 9, "a", "b"], np.eye(5)[:2], ["a", 9])
    found = labelled_features(spec_of("knn"), encoder)
    assert found.train_labels.tolist() == [3, 1, 0, 2, 3]
    assert found.test_labels.tolist() == [2, 0]
    assert found.classes == 4


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([], [1], "evaluation 'probe': not one image of train.tar could be used."),
        ([0, 1], [], "evaluation 'probe': not one image of test.tar could be used."),
        (
            [3, 3],
            [3],
            "evaluation 'probe': all images of train.tar have the label 3. A classifier needs two classes at least: "
            "check label_column and label_field.",
        ),
        (
            [0, 1],
            [2],
            "evaluation 'probe': no image of train.tar has the label 2, which one of test.tar has. Name training "
            "data with all classes in `train`.",
        ),
        ([0, 1.5], [0], "evaluation 'probe': the label 1.5 is neither an integer nor a text."),
        ([0, True], [0], "evaluation 'probe': the label True is neither an integer nor a text."),
        (
            [0, None],
            [0],
            "evaluation 'probe': a sample's json has no field 'meta.class'. Set label_column and label_field to "
            "where the label of its class stands.",
        ),
    ],
)
def test_labels_that_are_of_no_use(train: list[Any], test: list[Any], message: str) -> None:
    encoder: Any = Encoded(np.eye(2)[: len(train)], train, np.eye(2)[: len(test)], test)
    with pytest.raises(DataError) as raised:
        labelled_features(spec_of("knn"), encoder)
    assert str(raised.value) == message
