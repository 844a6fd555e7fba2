"""InfoNCE between two towers: images and texts, queries and documents with hard negatives.

A differentiable function with its own gathering, for whoever has features at hand. A training step gathers and
scatters by itself, while it encodes, and calls the same kernel (`contrast.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.losses.contrast import contrast
from workers.losses.gather import gather_features, world_size
from workers.losses.matryoshka import over_prefixes
from workers.losses.pairs import Pairs, gather_pairs
from workers.losses.rule import Prefixes, Rule
from workers.losses.tiles import product_type


def infonce(
    resident: Tensor,
    travelling: Tensor,
    logit_scale: Tensor,
    valid: Tensor | None = None,
    *,
    rule: Rule = Rule(),  # noqa: B008 - frozen
    pairs: Pairs | None = None,
    prefixes: Prefixes | None = None,
    wire: torch.dtype | None = None,
) -> Tensor:
    """This rank's part of the loss of the global batch, times the number of ranks (scalar).

    travelling: (m, d), L2-normalised. resident: (R, d), likewise; row i < m is the positive of travelling row i, and
    rows from m on are hard negatives. logit_scale: scalar, the inverse temperature. valid: (m,) bool; other pairs
    are neither query nor candidate; or `pairs`, which says more. m and R are the same on all ranks; all ranks call
    it together, forward and backward.

    The mean of the result over the ranks is the loss. Features of less than fp32 are taken as fp32, but for what
    `product_type` says. A global batch without a valid pair has loss 0.
    """
    A, T, scale = _wide(resident), _wide(travelling), _wide(logit_scale)
    if pairs is None:
        valid = torch.ones(len(T), dtype=torch.bool, device=T.device) if valid is None else valid
        negatives = torch.ones(len(A) - len(T), dtype=torch.bool, device=T.device)
        pairs = gather_pairs(valid, negatives_valid=negatives)
    G = gather_features(T, wire, typical_gradient(scale, pairs))
    products = product_type(travelling.device, resident.dtype, travelling.dtype)
    return over_prefixes(lambda A, G, _: contrast(A, G, scale, pairs, rule, products=products), A, G, prefixes)[0]


def typical_gradient(scale: Tensor, pairs: Pairs) -> float:
    """Size of a travelling row's gradient on a rank: s·N/C. Weights are not in it, for a loss does not know their
    unit either."""
    return float(scale.detach()) * world_size() / len(pairs.weight_C)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
