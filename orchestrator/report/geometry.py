"""Nearest neighbours, a plane to look at, and how similar things are, of a few hundred embeddings. Pure, and the same
each time.

Letters: n, m rows, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.data.keyed import permutation

BINS = 40
"""Of a histogram of cosines over [-1, 1]."""

Rows = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """Embeddings in two dimensions."""

    places: list[NDArray[np.float64]]
    """(n, 2) of each side."""
    explained: float
    """Share of the variance within the sides that the plane keeps."""
    gap: float
    """Distance of the two sides' means (Liang et al. 2022, the modality gap); 0 where there is one side."""


def plane(sides: Sequence[Rows]) -> Plane:
    """The first two principal components of all sides (n, d) together, each side about its own mean: the gap between
    them would else be the first component. Each component's largest weight is positive."""
    rows = [np.asarray(side, np.float64) for side in sides]
    centred = [side - side.mean(0) for side in rows]
    both = np.concatenate(centred)
    values, vectors = np.linalg.eigh(both.T @ both)
    axes = vectors[:, ::-1][:, :2]
    if axes.shape[1] < 2:
        axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    axes = axes * np.where(axes[np.abs(axes).argmax(0), range(2)] < 0, -1.0, 1.0)
    total = float(values.sum())
    gap = float(np.linalg.norm(rows[0].mean(0) - rows[1].mean(0))) if len(rows) > 1 else 0.0
    return Plane([side @ axes for side in centred], float(values[::-1][:2].sum()) / total if total > 0 else 0.0, gap)


def nearest(cosines: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """(n, m) -> (n, count): of each row the columns with the largest cosines, of equal ones the first."""
    order: NDArray[np.int64] = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return order


def cosines(one: Rows, other: Rows) -> NDArray[np.float64]:
    """(n, d), (m, d), L2-normalised -> (n, m)."""
    product: NDArray[np.float64] = np.asarray(one, np.float64) @ np.asarray(other, np.float64).T
    return product


def shares(values: NDArray[np.float64]) -> list[float]:
    """Cosines in BINS equal bins from -1 to 1, as shares."""
    counts = np.histogram(np.clip(values, -1, 1), BINS, (-1, 1))[0]
    found: list[float] = (counts / max(1, values.size)).tolist()
    return found


def chosen(there: int, most: int) -> list[int]:
    """At most `most` of range(there), drawn, ascending; the same each time."""
    return sorted(permutation(there, "report")[:most].tolist())
