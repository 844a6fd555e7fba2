"""Features on the unit sphere."""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST = 1e-6
"""A row that is shorter has no direction."""


def unit_rows(features: Tensor) -> Tensor:
    """(n, d) -> (n, d), rows of length 1, in fp32 or wider; a row shorter than SHORTEST becomes 0, without gradient.

    Divided by next to nothing, its gradient would be as large as a million others', and infinite in fp16.
    """
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    # The length of 0 has no gradient, not even where it is not chosen.
    short = length < SHORTEST
    return torch.where(short, 0, wide) / torch.where(short, 1, length)
