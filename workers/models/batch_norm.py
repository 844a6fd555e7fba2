"""Batch normalisation over the valid rows of the global batch, whatever the number of ranks.

Ioffe and Szegedy 2015, with the statistics of all ranks and without the padding and masked rows of any: the
same numbers as `torch.nn.BatchNorm2d` on one process that holds exactly the valid rows. Each layer gathers
(count, mean, sum of squared deviations) of the ranks once and combines them (Chan, Golub and LeVeque 1979), which
loses no digits where the mean is large against the deviations; backward adds two sums over the ranks.

All ranks must call a layer together, so a step cannot encode in micro-batches, nor compute a layer again.

n rows on this rank, C channels, p places of a row (1, or height times width); N ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm

from workers.losses.gather import all_gather_rows, all_reduce_sum


class ValidRows:
    """Which rows of a tower's batch count; shared by its layers. None: all."""

    def __init__(self) -> None:
        self.valid: Tensor | None = None


class GlobalBatchNorm(nn.Module):
    """`torch.nn.BatchNorm1d`, `2d` and `3d` over the valid rows of all ranks; parameters and running statistics are
    named as there. Statistics are fp32, or float64 for such inputs. Without a valid row the running ones stay."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, like: _BatchNorm, rows: ValidRows) -> None:
        """Takes over the parameters and the state of `like`, which has affine parameters and running statistics."""
        super().__init__()
        assert like.affine
        assert like.track_running_stats
        assert like.running_mean is not None
        assert like.running_var is not None
        assert like.momentum is not None, "a cumulative average is not used by any architecture"
        self.weight, self.bias = like.weight, like.bias
        self.register_buffer("running_mean", like.running_mean)
        self.register_buffer("running_var", like.running_var)
        self.eps, self.momentum = like.eps, like.momentum
        self.rows = rows

    # Collectives in an autograd function: a compiled graph goes around it.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, hidden: Tensor) -> Tensor:
        """(n, C, …) -> the same shape and type."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        shape = (1, -1, *[1] * (hidden.ndim - 2))
        if not self.training:
            scale = self.weight.to(dtype) * torch.rsqrt(self.running_var.to(dtype) + self.eps)
            shift = self.bias.to(dtype) - self.running_mean.to(dtype) * scale
            return (hidden.to(dtype) * scale.view(shape) + shift.view(shape)).to(hidden.dtype)
        valid = self.rows.valid
        if valid is None:
            valid = torch.ones(len(hidden), dtype=torch.bool, device=hidden.device)
        assert valid.shape == (len(hidden),), f"{len(hidden)} rows, {tuple(valid.shape)} say which are valid"
        with torch.autocast(hidden.device.type, enabled=False):
            normalised, mean, variance, count = _Normalised.apply(  # type: ignore[no-untyped-call]
                hidden.to(dtype).reshape(*hidden.shape[:2], -1), valid, self.eps
            )
            out = normalised.view_as(hidden) * self.weight.to(dtype).view(shape) + self.bias.to(dtype).view(shape)
        self._follow(mean, variance, count)
        normal: Tensor = out.to(hidden.dtype)
        return normal

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        # The running variance is the unbiased one, as in torch.
        unbiased = variance * count / (count - 1).clamp(min=1)
        momentum = self.momentum * (count > 0).to(mean.dtype)
        self.running_mean += momentum * (mean - self.running_mean)
        self.running_var += momentum * (unbiased - self.running_var)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GlobalBatchNorm:
        """Moves the module; running statistics keep at least fp32, in which a tenth of a step is not lost."""
        kept = {name: getattr(self, name) for name in ("running_mean", "running_var")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in kept.items():
            moved = getattr(self, name)
            if moved.dtype.itemsize < 4:
                setattr(self, name, before.to(moved.device))
        return self


class _Normalised(Function):
    """(n, C, p) -> (n, C, p) of mean 0 and variance 1 over the valid rows of all ranks; also their mean (C,),
    their biased variance (C,) and the number of places (scalar). Only the first has a gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, valid: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mask = valid[:, None, None]
        places = valid.sum().to(hidden.dtype) * hidden.shape[2]
        own_mean = hidden.masked_fill(~mask, 0).sum((0, 2)) / places.clamp(min=1)
        own_m2 = (hidden - own_mean[:, None]).masked_fill(~mask, 0).square().sum((0, 2))
        ranks = all_gather_rows(torch.cat([places[None], own_mean, own_m2])[None])  # (N, 1 + 2C)
        counts, means, m2s = ranks[:, :1], *ranks[:, 1:].chunk(2, dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count.clamp(min=1)
        variance = (m2s + counts * (means - mean).square()).sum(0) / count.clamp(min=1)
        inverse = torch.rsqrt(variance + eps)
        normalised = (hidden - mean[:, None]) * inverse[:, None]
        ctx.save_for_backward(normalised, valid, inverse, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return normalised, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        normalised, valid, inverse, count = ctx.saved_tensors
        mask, grad = valid[:, None, None], grads[0]
        # Every row was normalised by the mean and variance, the valid ones made them.
        sums = torch.cat([grad.sum((0, 2)), (grad * normalised).sum((0, 2))])
        sum_grad, sum_both = (all_reduce_sum(sums) / count.clamp(min=1)).chunk(2)
        through = (sum_grad[:, None] + normalised * sum_both[:, None]).masked_fill(~mask, 0)
        return (grad - through) * inverse[:, None], None, None


def replace_batch_norm(tower: nn.Module, rows: ValidRows) -> int:
    """Every batch normalisation becomes a `GlobalBatchNorm`. Returns their number."""
    replaced = 0
    for module in list(tower.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(module, name, GlobalBatchNorm(child, rows))
                replaced += 1
    return replaced
