"""The sigmoid loss: every pair of the global batch is a yes-or-no question of its own (Zhai et al. 2023, eq. 1).

    L = -1/W Σᵢⱼ wᵢⱼ·log σ(zᵢⱼ·(s·Aᵢ·Gⱼ + b))        z = 1 where i and j belong together, else -1

with row weights wᵢⱼ = (wᵢ + wⱼ)/2 and W = Σ wᵢ, the number of valid pairs where all weigh the same. No query needs a
sum over the whole batch, so a tile's gradient is known as soon as the tile is: both are computed in the forward
pass, in 6·R·C·d FLOPs, and the tile is never computed again. Memory is O((R + C)·d + tile).

As in `contrast.py`, a rank returns N times its part, and gradients of the scale and the bias are averaged here.

Letters: N ranks, R resident rows, C travelling rows of all ranks, r rows and c columns of a tile, d width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from workers.losses.gather import all_gather_rows, gather_features, global_mean, world_size
from workers.losses.infonce import typical_gradient
from workers.losses.matryoshka import over_prefixes
from workers.losses.pairs import Pairs, gather_pairs
from workers.losses.queries import NEVER, beats, rounding
from workers.losses.rule import Prefixes
from workers.losses.tiles import positive_logits, positive_rows, product_type, tiles


def siglip(
    resident: Tensor,
    travelling: Tensor,
    logit_scale: Tensor,
    bias: Tensor,
    valid: Tensor | None = None,
    *,
    margin: float | None = None,
    pairs: Pairs | None = None,
    prefixes: Prefixes | None = None,
    wire: torch.dtype | None = None,
) -> Tensor:
    """This rank's part of the loss of the global batch, times the number of ranks (scalar).

    resident, travelling: (m, d), L2-normalised; row i of one belongs to row i of the other. logit_scale, bias:
    scalars. valid: (m,) bool; other rows belong to nothing; or `pairs`, which says more. All ranks call it together.
    The mean of the result over the ranks is the loss.
    """
    wide = torch.promote_types(resident.dtype, torch.float32)
    A, T, scale, shift = resident.to(wide), travelling.to(wide), logit_scale.to(wide), bias.to(wide)
    if pairs is None:
        pairs = gather_pairs(torch.ones(len(T), dtype=torch.bool, device=T.device) if valid is None else valid)
    G = gather_features(T, wire, typical_gradient(scale, pairs))
    products = product_type(travelling.device, resident.dtype, travelling.dtype)
    return over_prefixes(
        lambda A, G, _: sigmoid_contrast(A, G, scale, shift, pairs, margin, products=products), A, G, prefixes
    )[0]


def sigmoid_contrast(
    A: Tensor,
    G: Tensor,
    scale: Tensor,
    bias: Tensor,
    pairs: Pairs,
    margin: float | None = None,
    *,
    measure: bool = False,
    products: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """This rank's part of the loss, times the number of ranks; and its part of the accuracy, as `contrast` has it
    for resident queries.

    A: (m, d), G: (C, d) with rows of length 1 (or 0), fp32 or wider; scale, bias: scalars. A negative whose cosine
    is larger than that of the row's or the column's positive by more than `margin` does not count. products: as `tiles`
    has it.
    """
    loss, hits = _Sigmoid.apply(A, G, scale, bias, pairs, margin, measure, products)  # type: ignore[no-untyped-call]
    return loss, hits


class _Sigmoid(Function):
    @staticmethod
    def forward(
        ctx: Any,
        A: Tensor,
        G: Tensor,
        scale: Tensor,
        bias: Tensor,
        pairs: Pairs,
        margin: float | None,
        measure: bool,
        products: torch.dtype | None,
    ) -> tuple[Tensor, Tensor]:
        weight = pairs.weight_C.to(A.dtype) * (world_size() / (pairs.total_weight or 1.0))
        own = weight[pairs.own]
        positives = positive_rows(G, pairs)
        positive = positive_logits(A, G, scale, pairs, products)
        limits = None
        if margin is not None:
            beyond = scale * (margin + rounding(A))
            limits = (positive + beyond, all_gather_rows(positive) + beyond)
        grad_A = torch.zeros_like(A)
        grad_G = torch.zeros_like(G) if ctx.needs_input_grad[1] else None
        grad_bias = A.new_zeros(())
        loss = (own * -F.logsigmoid(positive + bias)).sum()
        best = torch.full_like(positive, NEVER)
        for tile in tiles(A, G, scale, pairs, products):
            logits = tile.logits()
            if limits is not None:
                out = (logits > limits[0][tile.rows, None]) | (logits > limits[1][tile.columns])
                logits.masked_fill_(out, NEVER)
            if measure:
                best[tile.rows] = torch.maximum(best[tile.rows], logits.amax(1))
            logits += bias
            both = own[tile.rows, None] / 2 + weight[tile.columns] / 2
            # -log σ(-x); exp(40) is within fp32, and beyond it the rest has no digit.
            loss = loss + F.softplus(logits, threshold=40).mul_(both).sum()
            dS_rc = logits.sigmoid_().mul_(both)
            grad_bias += dS_rc.sum()
            tile.add_gradient(dS_rc, grad_A, grad_G)
        at_positive = -own * torch.sigmoid(-positive - bias)
        grad_bias += at_positive.sum()
        grad_A += at_positive[:, None] * positives
        grad_A *= scale
        if grad_G is not None:
            grad_G[pairs.own] += at_positive[:, None] * A
            grad_G *= scale
        ctx.save_for_backward(grad_A, grad_G, (A * grad_A).sum() / scale, grad_bias)
        hits = (own * beats(positive, best, scale)).sum() if measure else torch.zeros_like(loss)
        ctx.mark_non_differentiable(hits)
        return loss, hits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_A, grad_G, grad_scale, grad_bias = ctx.saved_tensors
        scalars = global_mean(torch.stack([grad_scale, grad_bias]) * grads[0])
        grad_G = None if grad_G is None else grad_G * grads[0]
        return grad_A * grads[0], grad_G, scalars[0], scalars[1], None, None, None, None
