"""The learnable inverse temperature, and the bias of a sigmoid loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from jobspecs.objective import Bias, LogitScale

SCALARS = "scalars"
"""What a model is asked for, in place of a side, to give its scale and, where there is one, its bias: (1,) or (2,)."""


class LogitScaleParameter(nn.Module):
    """exp(log_scale), clamped at `max` (Radford et al. 2021, §2.5). The logarithm is the parameter.

    The clamp stands in the forward pass: clamping the parameter itself would miss ZeRO's fp32 master.
    Above the bound the gradient passes when it leads back below it, so that a clamped scale is not stuck:
    the gradient that comes here must be the global batch's, or the ranks would decide differently.
    """

    def __init__(self, spec: LogitScale) -> None:
        super().__init__()
        self.max = spec.max
        # One element, not a scalar: DeepSpeed 0.19 can't broadcast parameters without a dimension.
        self.log_scale = nn.Parameter(torch.tensor([math.log(spec.init)]), requires_grad=spec.learnable)

    def forward(self) -> Tensor:
        """The scale, a scalar in fp32 (or the parameter's own dtype where that is wider)."""
        log_scale = self.log_scale.squeeze()
        scale = log_scale.to(torch.promote_types(log_scale.dtype, torch.float32)).exp()
        clamped: Tensor = _ClampBelow.apply(scale, self.max)  # type: ignore[no-untyped-call]
        return clamped


class _ClampBelow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, scale: Tensor, most: float) -> Tensor:
        ctx.save_for_backward(scale > most)
        return scale.clamp(max=most)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (above,) = ctx.saved_tensors  # type: ignore[attr-defined]
        # Gradient descent lowers the scale where the gradient is positive.
        return torch.where(above & (grads[0] < 0), 0, grads[0]), None


class BiasParameter(nn.Module):
    """What a sigmoid loss adds to its logits (Zhai et al. 2023, §3.1)."""

    def __init__(self, spec: Bias) -> None:
        super().__init__()
        # One element, as above.
        self.bias = nn.Parameter(torch.tensor([spec.init]), requires_grad=spec.learnable)

    def forward(self) -> Tensor:
        """The bias, a scalar in fp32 (or the parameter's own dtype where that is wider)."""
        bias = self.bias.squeeze()
        return bias.to(torch.promote_types(bias.dtype, torch.float32))
