"""The optimizer of a spec, over a model's trained parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from jobspecs.training import AdamW, Optimizer
from workers.train.lamb import Lamb

MOMENTS = ("exp_avg", "exp_avg_sq")
"""State of a parameter, each of the parameter's shape: the same names for every optimizer."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and embeddings are decayed; vectors and scalars (norms, biases, the logit scale) are not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, spec: Optimizer, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer of `spec` for the trained parameters of `model`."""
    groups = parameter_groups(model, spec.weight_decay)
    betas = (spec.betas[0], spec.betas[1])
    if isinstance(spec, AdamW):
        # One kernel for all tensors, where there is one: the loop over tensors costs more than the arithmetic.
        fused = device.type == "cuda"
        return torch.optim.AdamW(groups, lr=spec.learning_rate, betas=betas, eps=spec.eps, fused=fused)
    for group in groups:
        group["adapt"] = group["params"][0].ndim >= 2
    return Lamb(groups, lr=spec.learning_rate, betas=betas, eps=spec.eps)


def make_moments(optimizer: torch.optim.Optimizer, tensors: list[torch.Tensor]) -> None:
    """Makes the state of `tensors` now and not at the first step, so that a checkpoint can be loaded into it."""
    for tensor in tensors:
        fused = bool(optimizer.param_groups[0].get("fused"))
        optimizer.state[tensor] = {
            "step": torch.zeros((), dtype=torch.float32, device=tensor.device if fused else None),
            **{key: torch.zeros_like(tensor, requires_grad=False) for key in MOMENTS},
        }
