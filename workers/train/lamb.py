"""LAMB on whole parameters, and on the flat pieces of them that ZeRO leaves to a rank.

DeepSpeed's own needs an extension that is compiled when a job starts, and takes a rank's partition for a layer: its
steps depend on the number of ranks. Here the norms are those of the whole parameter, summed over the ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """Elements of a parameter in a tensor of the optimizer."""

    parameter: int
    """The parameter's number among those of the tensor's group, on all ranks alike."""
    start: int
    """First element in the tensor."""
    numel: int


@dataclass(frozen=True)
class Layout:
    """How parameters lie in one flat tensor of the optimizer."""

    parameters: int
    """In the whole group, those without a piece on this rank too."""
    pieces: tuple[Piece, ...]


class Lamb(torch.optim.Optimizer):
    """LAMB (You et al. 2020, Large batch optimization for deep learning, algorithm 2).

    With Adam's moments `m̂`, `v̂` (bias corrected) and weight decay `λ`:

        u = m̂ / (√v̂ + ε) + λ w            w ← w − η · ‖w‖/‖u‖ · u

    for each parameter; the ratio is 1 where either norm is 0, and in groups whose `adapt` is false (norms, biases,
    scalars, as in the authors' code).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": True})
        self.layouts: dict[Tensor, Layout] = {}
        """Of flat tensors (ZeRO); a tensor that is not in it is one whole parameter."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of all groups. Collective where tensors are flat pieces."""
        for group in self.param_groups:
            for tensor in group["params"]:
                layout = self.layouts.get(tensor)
                # Flat tensors always take part: the others wait for their norms.
                if tensor.grad is not None or layout is not None:
                    self._update(tensor, group, layout)

    def _update(self, tensor: Tensor, group: dict[str, Any], layout: Layout | None) -> None:
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        state = self.state[tensor]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(tensor), torch.zeros_like(tensor)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        steps = float(state["step"])
        m, v = state["exp_avg"].lerp_(gradient, 1 - beta1), state["exp_avg_sq"]
        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        update = (v / (1 - beta2**steps)).sqrt_().add_(group["eps"]).reciprocal_().mul_(m).div_(1 - beta1**steps)
        update.add_(tensor, alpha=group["weight_decay"])
        if group["adapt"]:
            if layout is None:
                update.mul_(_ratios(tensor.square().sum()[None], update.square().sum()[None])[0])
            else:
                _scale_pieces(tensor, update, layout)
        tensor.sub_(update, alpha=group["lr"])


def _ratios(weights: Tensor, updates: Tensor) -> Tensor:
    """Trust ratios of squared norms, both (parameters,)."""
    ratios = (weights / updates).sqrt()
    return torch.where((weights > 0) & (updates > 0), ratios, torch.ones_like(ratios))


def _scale_pieces(tensor: Tensor, update: Tensor, layout: Layout) -> None:
    """Scales `update` in place, each parameter's piece by the ratio of its whole norms."""
    squares = torch.zeros(2, layout.parameters, dtype=tensor.dtype, device=tensor.device)
    cuts = [(piece.parameter, slice(piece.start, piece.start + piece.numel)) for piece in layout.pieces]
    for parameter, cut in cuts:
        squares[0, parameter] += tensor[cut].square().sum()
        squares[1, parameter] += update[cut].square().sum()
    dist.all_reduce(squares)
    ratios = _ratios(squares[0], squares[1])
    for parameter, cut in cuts:
        update[cut] *= ratios[parameter]
