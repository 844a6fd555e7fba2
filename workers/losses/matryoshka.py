"""The loss of prefixes of the features beside the whole (Kusupati et al. 2022, eq. 1).

    L = L(A, G) + Σₖ cₖ·L(A[:, :dₖ]/|A[:, :dₖ]|, G[:, :dₖ]/|G[:, :dₖ]|)

Features travel once, whole; prefixes are cut and normalised where they are used.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from workers.losses.rule import Prefixes

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A loss of resident (R, d) and travelling features (C, d): its value and a measurement beside it, scalars."""


def over_prefixes(loss: Loss, A: Tensor, G: Tensor, prefixes: Prefixes | None) -> tuple[Tensor, Tensor]:
    """The sum of `loss` over the whole width and the prefixes; the measurement is that of the whole."""
    value, measured = loss(A, G)
    if prefixes is not None:
        for dim, weight in zip(prefixes.dims, prefixes.weights, strict=True):
            value = value + weight * loss(F.normalize(A[:, :dim], dim=-1), F.normalize(G[:, :dim], dim=-1))[0]
    return value, measured
