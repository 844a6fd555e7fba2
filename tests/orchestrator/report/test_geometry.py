"""The map and the neighbours, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from orchestrator.report import geometry


def test_the_plane_is_that_of_principal_components_of_centred_sides() -> None:
    draw = np.random.default_rng(0)
    sides = [draw.normal(shift, [3, 2, 1, 0.5], (40, 4)) for shift in (5, -5)]
    plane = geometry.plane(sides)
    pca = PCA(2).fit(np.concatenate([side - side.mean(0) for side in sides]))
    expected = pca.transform(np.concatenate([side - side.mean(0) for side in sides]))
    np.testing.assert_allclose(np.abs(np.concatenate(plane.places)), np.abs(expected), atol=1e-9)
    assert plane.explained == pytest.approx(pca.explained_variance_ratio_.sum())
    assert plane.gap == pytest.approx(np.linalg.norm(sides[0].mean(0) - sides[1].mean(0)))
    again = geometry.plane([-side for side in sides])
    np.testing.assert_allclose(np.concatenate(again.places), -np.concatenate(plane.places), atol=1e-9)


def test_a_plane_of_one_dimension_and_of_equal_rows() -> None:
    assert geometry.plane([np.array([[1.0], [-1.0]])]).places[0].tolist() == [[1, 0], [-1, 0]]
    assert geometry.plane([np.ones((3, 4))]).explained == 0


def test_of_equal_cosines_the_first_is_nearest() -> None:
    cosines = np.array([[0.1, 0.9, 0.9, -1.0]])
    assert geometry.nearest(cosines, 3).tolist() == [[1, 2, 0]]


def test_shares_of_cosines_in_bins() -> None:
    shares = geometry.shares(np.array([-1.0, 1.0, 1.0 + 1e-9, 0.0]))
    assert (shares[0], shares[-1], shares[20], sum(shares)) == (0.25, 0.5, 0.25, 1)
    assert geometry.shares(np.array([])) == [0.0] * geometry.BINS


def test_what_is_chosen_is_chosen_again() -> None:
    assert geometry.chosen(100, 8) == geometry.chosen(100, 8)
    assert geometry.chosen(3, 8) == [0, 1, 2]
