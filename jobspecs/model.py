"""`model:` the towers. Vocabulary, context and image size come from `data:`, stated once."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from jobspecs.base import PositiveInt, Section, misplaced


class _Transformer(Section):
    width: PositiveInt
    """Width of the residual stream."""
    layers: PositiveInt
    """Number of transformer blocks."""
    heads: PositiveInt
    """Attention heads of each block."""
    mlp_ratio: PositiveInt = 4
    """Width of the feed-forward layers over `width`."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> _Transformer:
        if self.width % self.heads:
            raise misplaced("heads", f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class ImageTower(_Transformer):
    """A vision transformer with a class token (Dosovitskiy et al. 2021), as CLIP builds it."""

    patch: PositiveInt
    """Side of a patch in pixels; must divide `data.image.size`."""


class TextTower(_Transformer):
    """A causal transformer pooled at the end token, as CLIP builds it."""


class Clip(Section):
    """Two towers from scratch, with transformers' CLIP architecture (Radford et al. 2021)."""

    kind: Literal["clip"]
    """Which architecture."""
    image: ImageTower
    """The image tower."""
    text: TextTower
    """The text tower."""
    embedding_dim: PositiveInt
    """Width of the shared embedding."""


Model = Clip
"""The model sections; a second kind makes this a union discriminated on `kind`."""
