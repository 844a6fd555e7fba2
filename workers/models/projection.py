"""From a tower's width to the shared embedding."""

from __future__ import annotations

from torch import nn


def make_projection(kind: str, width: int, embedding_dim: int) -> nn.Module:
    """`linear`: w -> d without bias, first weights of deviation w^-½ as in CLIP; `mlp`: w -> w -> d with a ReLU,
    SimCLR's head (Chen et al. 2020, §4.2), without its batch normalisation; `none`."""
    if kind == "none":
        assert width == embedding_dim
        return nn.Identity()
    last = nn.Linear(width, embedding_dim, bias=False)
    nn.init.normal_(last.weight, std=width**-0.5)
    if kind == "linear":
        return last
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)
