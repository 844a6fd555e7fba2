"""How features lie on the unit sphere: figures of training's health and of the evaluation of that name.

Letters: n rows, d width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def uniformity(cosines: Tensor) -> float:
    """log mean exp(-2·squared distance) over pairs of rows with these cosines, of any shape; 0.0 of none (Wang and
    Isola 2020, eq. 3 with t = 2)."""
    if not cosines.numel():
        return 0.0
    return float(torch.logsumexp(4 * cosines.reshape(-1) - 4, 0)) - math.log(cosines.numel())


def effective_rank(rows: Tensor) -> float:
    """exp of the entropy of the singular values of (n, d) (Roy and Vetterli 2007); 0.0 of no rows."""
    if not len(rows):
        return 0.0
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    p = values / values.sum().clamp(min=1e-300)
    return float(torch.special.entr(p).sum().exp())
