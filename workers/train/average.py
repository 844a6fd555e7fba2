"""The exponential moving average of a model's weights, over tensors as a rank holds them.

fp32, beside the optimizer's own tensors and cut as those are: nothing is sent, and an update is one pass over memory.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def decay_at(update: int, decay: float) -> float:
    """How much of the average stays at the given update, from 1, of `jobspecs.training.Ema`."""
    return min(decay, (1 + update) / (10 + update))


class WeightAverage:
    """The average of tensors that change in place. It starts as they are."""

    def __init__(self, decay: float, tensors: Iterable[Tensor]) -> None:
        self._decay = decay
        self.values = {tensor: tensor.detach().clone() for tensor in tensors}
        """Of each tensor; to be read, and to be set from a checkpoint."""
        self.updates = 0
        """Updates done."""

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the tensors as they are now."""
        self.updates += 1
        weight = 1 - decay_at(self.updates, self._decay)
        torch._foreach_lerp_(list(self.values.values()), list(self.values), weight)
