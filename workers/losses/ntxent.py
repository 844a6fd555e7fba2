"""NT-Xent: each view of each sample against all other views of the global batch (Chen et al. 2020, eq. 1).

    L = 1/(2n) Σᵥ [log Σ_{u ≠ v} exp(s·zᵥ·z_u) - s·zᵥ·z_v']        v' is the other view of v's sample, n valid samples

The matrix of similarities is symmetric, so the gradient of a row's features takes its own log-sum-exp and those of
all other rows (with what belongs to them 20 to 28 bytes each): no features travel in the backward pass.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from workers.losses.contrast import contrast
from workers.losses.gather import start_feature_gather
from workers.losses.matryoshka import over_prefixes
from workers.losses.pairs import Pairs, gather_pairs
from workers.losses.rule import NTXENT, Prefixes, Rule
from workers.losses.tiles import product_type


def ntxent(
    features: Tensor,
    logit_scale: Tensor,
    valid: Tensor | None = None,
    *,
    rule: Rule = NTXENT,
    pairs: Pairs | None = None,
    prefixes: Prefixes | None = None,
    wire: torch.dtype | None = None,
) -> Tensor:
    """This rank's part of the loss of the global batch, times the number of ranks (scalar).

    features: (m, 2, d), L2-normalised, two views of each sample. logit_scale: scalar, the inverse temperature. rule:
    how negatives count; of directions there is one here, whatever it says.
    valid: (m,) bool; other samples are neither query nor candidate; or `pairs` of the 2m views, which says more. All
    ranks call it together. The mean of the result over the ranks is the loss.
    """
    m, _, d = features.shape
    Z = features.reshape(2 * m, d)
    Z = Z.to(torch.promote_types(Z.dtype, torch.float32))
    if pairs is None:
        valid = torch.ones(m, dtype=torch.bool, device=Z.device) if valid is None else valid
        pairs = gather_pairs(valid.repeat_interleave(2), views=2)
    G = start_feature_gather(Z, wire).wait()
    if wire is not None:
        # A row is as it is to the others; the gradient passes the rounding as if it were not there.
        Z = Z + (G[pairs.own] - Z).detach()
    scale = logit_scale.to(Z.dtype)
    rule = replace(rule, to_travelling=1.0, to_resident=0.0, symmetric=True)
    products = product_type(features.device, features.dtype)
    return over_prefixes(lambda A, G, _: contrast(A, G, scale, pairs, rule, products=products), Z, G, prefixes)[0]
