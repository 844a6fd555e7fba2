"""What image and text towers share: a network of transformers, a pooled feature, a projection."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from jobspecs.errors import UsageError
from workers.models.batch_norm import ValidRows
from workers.models.dropout import RowKeys

Inputs = dict[str, Tensor]
"""A side's inputs: `pixels` and perhaps `color`, or `tokens`."""


class Tower(nn.Module):
    """Inputs -> pooled feature -> embedding. n rows, w width of the network, d of the embedding."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.projection: nn.Module = nn.Identity()
        self.keys = RowKeys()
        self.rows = ValidRows()
        self.frozen = False
        self.pooling = "own"

    def pool_as(self, other: Tower) -> None:
        """Pools as another tower of this kind."""
        raise NotImplementedError

    def pooled(self, inputs: Inputs) -> Tensor:
        """(n, w), as the network is: with dropout where it trains."""
        raise NotImplementedError

    def output(self, inputs: Inputs) -> Any:
        """What transformers' network gives, before it is pooled."""
        raise NotImplementedError

    def shortened(self, inputs: Inputs) -> Inputs:
        """The inputs without what counts for nothing. Reads them: on a GPU it waits."""
        return inputs

    def forward(self, inputs: Inputs, keys: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """(n, d), not normalised. keys (n,) int64 are dropout's; valid (n,) says which rows batch normalisation
        counts, None all."""
        self.rows.valid = valid
        try:
            with self.keys.of(keys):
                features: Tensor = self.projection(self.pooled(inputs))
        finally:
            self.rows.valid = None
        return features

    def freeze(self) -> None:
        """From now on nothing in it changes: no gradients, no dropout, no running statistics."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Tower:
        """As of any module; a frozen tower stays in eval mode."""
        super().train(mode and not self.frozen)
        return self

    def checkpoint_gradients(self, place: str) -> None:
        """Keeps the inputs of the network's blocks alone, and computes the blocks again in the backward pass.

        Raises UsageError where the architecture has no such blocks.
        """
        blocks = [module for module in self.network.modules() if hasattr(module, "gradient_checkpointing")]
        if not blocks:
            raise UsageError(
                f"training.gradient_checkpointing: {type(self.network).__name__} of {place} can't do it. Leave it out, "
                "or choose another architecture"
            )
        for block in blocks:
            block.gradient_checkpointing = True  # type: ignore[assignment]
            block._gradient_checkpointing_func = self.keys.checkpoint  # type: ignore[assignment]
