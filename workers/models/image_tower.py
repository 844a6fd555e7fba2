"""Pixels -> features, with any vision architecture of transformers."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from jobspecs.columns import Image
from jobspecs.errors import UsageError
from workers.models.architecture import Architecture
from workers.models.color import change_colors
from workers.models.pooling import pool_image, prefix_tokens
from workers.models.tower import Inputs, Tower


class ImageTower(Tower):
    """uint8 pixels (n, P, P, 3), normalised here, on the device."""

    def __init__(self, network: nn.Module, image: Image, interpolate: bool) -> None:
        super().__init__(network)
        self.mean, self.std = tuple(image.mean), tuple(image.std)
        self.pooling, self.prefix = "own", 0
        self.interpolates = interpolate

    def pool_as(self, other: Tower) -> None:
        """Pools as another tower of this kind."""
        assert isinstance(other, ImageTower)
        self.pooling, self.prefix = other.pooling, other.prefix

    def output(self, inputs: Inputs) -> Any:
        """What transformers' network gives. `color` (n, A) of the inputs says how the colours change first."""
        planes = inputs["pixels"].permute(0, 3, 1, 2)
        color = inputs.get("color")
        # In fp32 whatever the network's type: bf16 has fewer digits than a byte.
        scaled = planes.float() / 255 if color is None else change_colors(planes, color)
        wanted = next(self.network.parameters()).dtype
        scaled = scaled.to(torch.promote_types(wanted, torch.float32))
        mean, std = (scaled.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        options = {"interpolate_pos_encoding": True} if self.interpolates else {}
        return self.network(pixel_values=((scaled - mean) / std).to(wanted), **options)

    def pooled(self, inputs: Inputs) -> Tensor:
        """(n, w)."""
        return pool_image(self.output(inputs), self.pooling, self.prefix)


def fit_to_images(architecture: Architecture, image: Image) -> None:
    """An architecture from scratch gets the size of the images."""
    if architecture.folder is None and hasattr(architecture.config, "image_size"):
        architecture.config.image_size = image.size


def interpolates(architecture: Architecture, network: nn.Module, image: Image) -> bool:
    """Whether the positions that a checkpoint has learnt are stretched to the size of the images."""
    theirs = getattr(architecture.config, "image_size", image.size)
    able = "interpolate_pos_encoding" in inspect.signature(network.forward).parameters
    return theirs not in (image.size, [image.size] * 2, (image.size,) * 2) and able


def choose_pooling(tower: ImageTower, asked: str, output: Any, architecture: Architecture, image: Image) -> None:
    """Chooses the pooling, given what the network gives. Raises UsageError where it can't pool as asked."""
    hidden: Tensor = output.last_hidden_state
    patch = getattr(architecture.config, "patch_size", None)
    patches = None
    if isinstance(patch, int) and hidden.ndim == 3:
        if image.size % patch:
            below, above = image.size // patch * patch, -(-image.size // patch) * patch
            raise UsageError(
                f"data.image.size: size {image.size} is not a multiple of {patch}, the patches of "
                f"{architecture.name} in {architecture.place}. Choose {f'{below} or ' if below else ''}{above}"
            )
        patches = (image.size // patch) ** 2
    tower.prefix = prefix_tokens(hidden, patches)
    pools = getattr(output, "pooler_output", None) is not None
    classifies = hasattr(getattr(tower.network, "pooler", None), "dense")
    if asked == "auto":
        asked = "own" if pools and not classifies else "cls" if tower.prefix else "mean"
    if asked == "own" and not pools:
        raise UsageError(f"{architecture.place}.pooling: {architecture.name} does not pool. Choose cls or mean")
    if asked == "cls" and not tower.prefix:
        raise UsageError(f"{architecture.place}.pooling: {architecture.name} has no class token. Choose own or mean")
    tower.pooling = asked
