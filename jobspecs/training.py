"""`training:` the global batch, how long, and how the parameters move."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobspecs.base import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section

_Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class AdamW(Section):
    """AdamW (Loshchilov and Hutter 2019). Norms, biases and the logit scale are not decayed."""

    kind: Literal["adamw"] = "adamw"
    """Which optimizer."""
    learning_rate: PositiveFloat
    """Peak learning rate, reached after the warm-up."""
    betas: list[_Beta] = Field(default=[0.9, 0.98], min_length=2, max_length=2)
    """Decay rates of the two moments."""
    eps: PositiveFloat = 1e-6
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.2
    """Decoupled weight decay of the matrices and embeddings."""


class Cosine(Section):
    """Linear warm-up, then half a cosine down to `final_fraction` of the peak."""

    kind: Literal["cosine"] = "cosine"
    """Which schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps of the linear warm-up."""
    final_fraction: Fraction = 0.0
    """Learning rate at the end, as a fraction of the peak."""


class Training(Section):
    """The training run. Exactly one of `steps`, `passes` and `samples` says how long it is."""

    global_batch: Annotated[int, Field(ge=2)]
    """Samples a step over all ranks: each is contrasted with all the others, on any cluster."""
    steps: PositiveInt | None = None
    """Length in optimizer steps."""
    passes: PositiveInt | None = None
    """Length in passes over the data."""
    samples: PositiveInt | None = None
    """Length in samples seen, rounded up to whole steps."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the towers; the loss is always fp32."""
    zero_stage: Annotated[int, Field(ge=0, le=1)] = 1
    """DeepSpeed ZeRO stage: 1 spreads the optimizer's state over the ranks."""
    optimizer: AdamW
    """The optimizer."""
    schedule: Cosine = Cosine()
    """The learning rate over the steps."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this global L2 norm."""

    @model_validator(mode="after")
    def _one_length(self) -> Training:
        given = [name for name in ("steps", "passes", "samples") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"give exactly one of steps, passes and samples (found {found})")
        return self
