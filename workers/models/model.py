"""The model of a contrastive job: its towers, and the scale and bias of its similarities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workers.losses.logit_scale import SCALARS, BiasParameter, LogitScaleParameter
from workers.losses.unit import unit_rows
from workers.models.batch_norm import GlobalBatchNorm
from workers.models.dropout import mix, word_of
from workers.models.tower import Inputs, Tower


class ContrastiveModel(nn.Module):
    """Towers by name, and which of them encodes which side. n rows, d width of the embedding, w of a tower."""

    def __init__(
        self,
        towers: dict[str, Tower],
        tower_of: dict[str, str],
        logit_scale: LogitScaleParameter,
        bias: BiasParameter | None = None,
    ) -> None:
        """tower_of: the tower of each side (image, text, query, document). bias: of SigLIP's loss."""
        super().__init__()
        self.towers = nn.ModuleDict(towers)
        self.tower_of = tower_of
        self.logit_scale = logit_scale
        self.bias = bias

    def tower(self, side: str) -> Tower:
        """The tower that encodes `side`."""
        tower = self.towers[self.tower_of[side]]
        assert isinstance(tower, Tower)
        return tower

    def forward(
        self, side: str, inputs: Inputs | None = None, keys: Tensor | None = None, valid: Tensor | None = None
    ) -> Tensor:
        """(n, d), L2-normalised, in fp32 or the tower's type where that is wider.

        inputs: `pixels` uint8 (n, P, P, 3), with them perhaps `color` fp32 (n, A), best on the CPU; or `tokens`,
        integers (n, T). keys (n,) int64: dropout's masks depend on them and on the side, on nothing else; needed
        in train mode where a tower has dropout. valid (n,) bool: rows that batch normalisation counts. In place of
        a side, SCALARS gives the logit scale and, where there is one, the bias: (1,) or (2,).
        """
        if side == SCALARS:
            return torch.stack([self.logit_scale()] if self.bias is None else [self.logit_scale(), self.bias()])
        assert inputs is not None
        if keys is not None:
            keys = mix(keys ^ word_of(side))
        embeds = self.tower(side)(inputs, keys, valid)
        return unit_rows(embeds)

    def embed(self, side: str, inputs: Inputs) -> Tensor:
        """(n, d), L2-normalised, in eval mode whatever the model's mode: no dropout, running statistics."""
        tower = self.tower(side)
        with _evaluating(tower):
            features: Tensor = self(side, tower.shortened(inputs))
        return features

    def backbone(self, side: str, inputs: Inputs) -> Tensor:
        """(n, w): the pooled features before the projection, not normalised, in eval mode as `embed`."""
        tower = self.tower(side)
        with _evaluating(tower):
            pooled = tower.pooled(tower.shortened(inputs))
        return pooled.to(torch.promote_types(pooled.dtype, torch.float32))

    def project(self, side: str, pooled: Tensor) -> Tensor:
        """(n, d): what `embed` makes of inputs whose `backbone` features, (n, w), are at hand."""
        tower = self.tower(side)
        with _evaluating(tower):
            features: Tensor = unit_rows(tower.projection(pooled))
        return features

    def trained(self, side: str) -> bool:
        """Whether anything of the side's tower is trained."""
        return any(parameter.requires_grad for parameter in self.tower(side).parameters())

    @property
    def has_batch_norm(self) -> bool:
        """Whether a trained tower normalises over the batch: then the whole batch of a rank must be encoded at once,
        and once, on all ranks together."""
        return any(isinstance(module, GlobalBatchNorm) and module.weight.requires_grad for module in self.modules())


class _evaluating:  # noqa: N801 - reads as a statement
    """Inside, the module is in eval mode; behind it, in the mode that it was in."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.was = self.module.training
        self.module.eval()

    def __exit__(self, *error: object) -> None:
        self.module.train(self.was)
