"""What evaluations need of a model, and the models of specs as such."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from jobspecs.job import JobSpec
from workers.data.tokenize import Tokenizer
from workers.models.two_tower import TwoTower, build


class EncodingModel(Protocol):
    """Encodes inputs of a side: `image`, `text`, `query` or `document`. n inputs.

    Inputs are {"pixels": uint8 (n, P, P, 3)} or {"tokens": integers (n, T)}.
    """

    def embed(self, side: str, inputs: dict[str, Tensor]) -> Tensor:
        """(n, d), L2-normalised."""
        ...

    def backbone(self, side: str, inputs: dict[str, Tensor]) -> Tensor:
        """(n, width): pooled features before the projection, not normalised."""
        ...

    def eval(self) -> EncodingModel:
        """Without dropout from here on."""
        ...

    def to(self, device: torch.device) -> EncodingModel:
        """Moved to a device."""
        ...


def build_model(spec: JobSpec, tokenizers: dict[str, Tokenizer]) -> tuple[nn.Module, EncodingModel]:
    """The model of a spec with its first weights: as checkpoints hold it, and as evaluations use it."""
    model = build(spec.model, spec.data, spec.objective, spec.seed, tokenizers["text"])
    return model, OfTwoTowers(model)


class OfTwoTowers(nn.Module):
    """A `TwoTower` as an `EncodingModel`."""

    def __init__(self, towers: TwoTower) -> None:
        super().__init__()
        self.towers = towers

    def embed(self, side: str, inputs: dict[str, Tensor]) -> Tensor:
        """(n, d), L2-normalised."""
        if side == "image":
            return self.towers.encode_image(inputs["pixels"])
        return self.towers.encode_text(inputs["tokens"])

    def backbone(self, side: str, inputs: dict[str, Tensor]) -> Tensor:
        """(n, width) of images."""
        assert side == "image", "the texts of two towers are only embedded"
        towers = self.towers
        pixels = inputs["pixels"].permute(0, 3, 1, 2).to(towers.mean.dtype) / 255
        tower = towers.image_tower.get_submodule("vision_model")
        pooled: Tensor = tower(pixel_values=(pixels - towers.mean) / towers.std).pooler_output
        return pooled
