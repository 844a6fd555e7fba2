"""Symmetric InfoNCE over the gathered global batch, in one pass and with linear memory.

    S = s·A·Gᵀ          A: resident features of this rank (m rows), G: travelling features of all (B rows)
    L = 1/(2n) Σᵢ vᵢ [(rowLSEᵢ - Sᵢᵢ) + (colLSEᵢ - Sᵢᵢ)]        n = Σ v over the global batch

with log-sum-exps over valid columns (rows) only: the loss of CLIP (Radford et al. 2021, figure 3; van
den Oord et al. 2018, eq. 4, in both directions), averaged over the valid pairs of the global batch.

Each rank computes only its own rows of S, in tiles of columns. The row log-sum-exp is complete on the
rank, the column one takes two all-reduces of B floats. The backward pass computes the tiles again:

    ∂L/∂S = (P_row + P_col)/(2n) - diag(v)/n        P_row = exp(S - rowLSE), P_col = exp(S - colLSE)

so dA is complete on the rank and dG is reduce-scattered. Memory is O(B·d + tile·m), never O(m·B).

A rank returns N times its part of L. Data-parallel training averages gradients over the ranks, and the
mean of those parts' gradients is the gradient of L: for both towers and for the scale. The scale's gradient
is averaged here already, for one more all-reduce of a scalar: its clamp looks at the sign of it, which on
a rank alone can be another.

Letters: N ranks, m rows a rank (masked ones included), B = N·m, d width, c columns of a tile.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from workers.losses.gather import (
    all_gather_rows,
    all_reduce_max,
    all_reduce_sum,
    global_mean,
    rank,
    reduce_scatter_rows,
    world_size,
)

TILE_BYTES = 64 * 2**20
"""Memory of one tile of S; three or four of that size live at a time."""


def infonce(resident: Tensor, travelling: Tensor, logit_scale: Tensor, valid: Tensor) -> Tensor:
    """This rank's part of the loss of the global batch, times the number of ranks (scalar).

    resident, travelling: (m, d), L2-normalised; row i of one is the positive of row i of the other.
    logit_scale: scalar, the inverse temperature. valid: (m,) bool; other rows are neither query nor
    negative. m is the same on all ranks; all ranks call it together, forward and backward.

    The mean of the result over the ranks is the loss. Features of less than fp32 are taken as fp32.
    A global batch without a valid row has loss 0.
    """
    dtype = torch.promote_types(resident.dtype, torch.float32)
    loss: Tensor = _InfoNCE.apply(  # type: ignore[no-untyped-call]
        resident.to(dtype), travelling.to(dtype), logit_scale.to(dtype), valid
    )
    return loss


def _tiles(B: int, m: int, itemsize: int) -> list[slice]:
    """Slices of columns such that a tile of m rows stays within TILE_BYTES."""
    columns = max(1, TILE_BYTES // (max(m, 1) * itemsize))
    return [slice(start, min(start + columns, B)) for start in range(0, B, columns)]


class _InfoNCE(Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, T: Tensor, scale: Tensor, valid: Tensor) -> Tensor:
        m, N = A.shape[0], world_size()
        G_Bd = all_gather_rows(T)
        valid_B = all_gather_rows(valid)
        B = G_Bd.shape[0]

        # A finite stand-in for -inf keeps rows and ranks without a valid entry free of NaN.
        lowest = torch.finfo(A.dtype).min
        row_max = A.new_full((m,), lowest)
        row_sum = A.new_zeros(m)
        col_max = A.new_full((B,), lowest)
        col_sum = A.new_zeros(B)
        for tile in _tiles(B, m, A.element_size()):
            S_mc = scale * (A @ G_Bd[tile].T)
            S_rows = S_mc.masked_fill(~valid_B[tile], lowest)
            new_max = torch.maximum(row_max, S_rows.amax(1))
            row_sum = row_sum * (row_max - new_max).exp() + ((S_rows - new_max[:, None]).exp() * valid_B[tile]).sum(1)
            row_max = new_max
            S_cols = S_mc.masked_fill_(~valid[:, None], lowest)
            col_max[tile] = S_cols.amax(0)
            col_sum[tile] = ((S_cols - col_max[tile]).exp() * valid[:, None]).sum(0)

        rank_max = col_max.clone()
        all_reduce_max(col_max)
        all_reduce_sum(col_sum.mul_((rank_max - col_max).exp()))
        # The log of an empty sum is masked below; 1 in its place keeps it finite.
        n = valid_B.sum()
        row_lse = row_max + torch.where(n > 0, row_sum, 1).log()
        col_lse = col_max + torch.where(n > 0, col_sum, 1).log()

        own = slice(rank() * m, (rank() + 1) * m)
        diagonal = scale * (A * T).sum(1)
        terms = torch.where(valid, row_lse + col_lse[own] - 2 * diagonal, 0)
        weight = N / (2 * n.clamp(min=1).to(A.dtype))
        ctx.save_for_backward(A, G_Bd, scale, valid, valid_B, row_lse, col_lse, weight)
        return terms.sum() * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        A, G_Bd, scale, valid, valid_B, row_lse, col_lse, weight = ctx.saved_tensors
        m, B = A.shape[0], G_Bd.shape[0]
        grad_A = torch.zeros_like(A)
        grad_G = torch.zeros_like(G_Bd)
        grad_scale = A.new_zeros(())
        offset = rank() * m
        for tile in _tiles(B, m, A.element_size()):
            cosine_mc = A @ G_Bd[tile].T
            S_mc = scale * cosine_mc
            both = valid[:, None] & valid_B[tile]
            dS_mc = (S_mc - row_lse[:, None]).exp() + (S_mc - col_lse[tile]).exp()
            dS_mc.masked_fill_(~both, 0)
            # Positives: row i of this rank meets column offset + i, where that lies in the tile.
            first, last = max(offset, tile.start), min(offset + m, tile.stop)
            if first < last:
                rows = torch.arange(first - offset, last - offset, device=A.device)
                columns = torch.arange(first - tile.start, last - tile.start, device=A.device)
                dS_mc[rows, columns] -= 2 * valid[rows].to(A.dtype)
            dS_mc *= grads[0] * weight
            grad_scale += (dS_mc * cosine_mc).sum()
            grad_A += scale * (dS_mc @ G_Bd[tile])
            grad_G[tile] = scale * (dS_mc.T @ A)
        return grad_A, reduce_scatter_rows(grad_G), global_mean(grad_scale), None
