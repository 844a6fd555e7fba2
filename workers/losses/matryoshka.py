"""The loss of prefixes of the features beside the whole (Kusupati et al. 2022, eq. 1).

    L = L(A, G) + Σₖ cₖ·L(A[:, :dₖ]/|A[:, :dₖ]|, G[:, :dₖ]/|G[:, :dₖ]|)

Features travel once, whole; prefixes are cut and normalised where they are used.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from workers.losses.rule import Prefixes
from workers.losses.unit import unit_rows

Loss = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor]]
"""A loss of resident (R, d) and travelling features (C, d), measured or not: its value and what was measured."""


def over_prefixes(
    loss: Loss, A: Tensor, G: Tensor, prefixes: Prefixes | None, *, measure: bool = False
) -> tuple[Tensor, Tensor]:
    """The sum of `loss` over the whole width and the prefixes; what is measured is the whole width."""
    value, measured = loss(A, G, measure)
    if prefixes is not None:
        for dim, weight in zip(prefixes.dims, prefixes.weights, strict=True):
            value = value + weight * loss(unit_rows(A[:, :dim]), unit_rows(G[:, :dim]), False)[0]
    return value, measured
