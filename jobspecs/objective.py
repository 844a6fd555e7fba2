"""`objective:` what is contrasted with what, and by which loss."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from jobspecs.base import PositiveFloat, Section, misplaced


class LogitScale(Section):
    """The inverse temperature that multiplies the cosine similarities."""

    init: PositiveFloat = 1 / 0.07
    """Its first value (1/0.07 in CLIP)."""
    max: PositiveFloat = 100.0
    """It is clamped at this value (100 in CLIP)."""
    learnable: bool = True
    """Whether it is trained; its logarithm is the parameter."""

    @model_validator(mode="after")
    def _starts_below_max(self) -> LogitScale:
        if self.init > self.max:
            raise misplaced("init", f"init {self.init:g} is above max {self.max:g}")
        return self


class ImageText(Section):
    """Images against their captions, every other pair of the global batch a negative (CLIP)."""

    kind: Literal["image_text"]
    """What is contrasted."""
    loss: Literal["infonce"] = "infonce"
    """`infonce`: symmetric cross-entropy over the global batch."""
    logit_scale: LogitScale = LogitScale()
    """The inverse temperature."""


Objective = ImageText
"""The objective sections; a second kind makes this a union discriminated on `kind`."""
