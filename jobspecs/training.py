"""`training:` the global batch, how long, and how the parameters move."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobspecs.base import Fraction, NonNegativeFloat, PositiveFloat, Section, defaults, misplaced
from jobspecs.units import Counted, NonNegativeInt, PositiveInt

LENGTHS = ("steps", "passes", "samples")
"""Fields that say how long training is: one of them."""

_Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class AdamW(Section):
    """AdamW (Loshchilov and Hutter 2019). Norms, biases and the logit scale are not decayed."""

    kind: Literal["adamw"]
    """Which optimizer."""
    learning_rate: PositiveFloat = 5e-4
    """Peak learning rate, reached after the warm-up. The default is CLIP's for ViT-B/32 and a batch of 32,768; smaller
    batches want less."""
    betas: list[_Decay] = Field(default=[0.9, 0.98], min_length=2, max_length=2)
    """Decay rates of the two moments."""
    eps: PositiveFloat = 1e-6
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.2
    """Decoupled weight decay of the matrices and embeddings."""


class Lamb(Section):
    """LAMB (You et al. 2020, Large batch optimization for deep learning), algorithm 2: Adam's step, scaled for
    each matrix to its norm. Norms, biases and the logit scale are neither decayed nor scaled."""

    kind: Literal["lamb"]
    """Which optimizer."""
    learning_rate: PositiveFloat
    """Peak learning rate, reached after the warm-up."""
    betas: list[_Decay] = Field(default=[0.9, 0.999], min_length=2, max_length=2)
    """Decay rates of the two moments."""
    eps: PositiveFloat = 1e-6
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.01
    """Decay of the matrices and embeddings, part of the step that is scaled."""


Optimizer = Annotated[AdamW | Lamb, Field(discriminator="kind")]
"""The optimizer sections."""


class Cosine(Section):
    """Linear warm-up, then half a cosine down to `final_fraction` of the peak."""

    kind: Literal["cosine"]
    """Which schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps of the linear warm-up."""
    final_fraction: Fraction = 0.0
    """Learning rate at the end, as a fraction of the peak."""


class Constant(Section):
    """Linear warm-up, then the peak to the end."""

    kind: Literal["constant"]
    """Which schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps of the linear warm-up."""


class Rsqrt(Section):
    """Linear warm-up, then the reciprocal square root of the step, and a linear cooldown to 0 (Zhai et al. 2022,
    Scaling vision transformers, section 3.5): any step before the cooldown can be gone on from."""

    kind: Literal["rsqrt"]
    """Which schedule."""
    warmup_steps: NonNegativeInt = 0
    """Steps of the linear warm-up."""
    timescale: PositiveInt = 10_000
    """Steps after the warm-up until the learning rate has fallen by a factor of 1/sqrt(2)."""
    cooldown_steps: NonNegativeInt = 0
    """Steps of the linear cooldown at the end."""


Schedule = Annotated[Cosine | Constant | Rsqrt, Field(discriminator="kind")]
"""The schedule sections."""


class Ema(Section):
    """Exponential moving average of the weights: after optimizer step t, from 1,

        average <- d average + (1 - d) weights,    d = min(decay, (1 + t) / (10 + t))

    which until 9 / (1 - decay) steps is over about the last ninth of them (TensorFlow's ExponentialMovingAverage with
    `num_updates`; averages of iterates: Polyak and Juditsky 1992). Skipped steps don't count. It is fp32, spread over
    the ranks as the optimizer's state is, 4 bytes a trained parameter. Evaluations take the average.

    Running statistics of batch normalisation are averaged like the weights: those of the averaged weights are, to
    first order, the average of those of the weights. The last ones would be of weights that the average is far from.
    """

    decay: _Decay = 0.9999
    """Largest share of the average that stays at a step: it is over about the last 1 / (1 - decay) steps."""


class Training(Section):
    """The training run. Exactly one of `steps`, `passes` and `samples` says how long it is."""

    global_batch: Annotated[int, Field(ge=2), Counted()]
    """Samples a step over all ranks: each is contrasted with all the others, on any cluster."""
    micro_batch: PositiveInt | Literal["auto"] | None = None
    """Rows that a rank encodes at a time: less memory, the same loss and gradient. Null: its whole share of the
    batch; auto: the most that fit into the device's memory."""
    steps: PositiveInt | None = None
    """Length in optimizer steps."""
    passes: PositiveInt | None = None
    """Length in passes over the data."""
    samples: PositiveInt | None = None
    """Length in samples seen, rounded up to whole steps."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Arithmetic of the towers; parameters and loss are always fp32. fp16 scales its loss, and skips steps whose
    gradients overflow."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1
    """DeepSpeed ZeRO stage, what is spread over the ranks: 1 the optimizer's state, 2 also the gradients, 3 also
    the parameters. A rank alone has nothing to spread: there it is 0."""
    gradient_checkpointing: bool = False
    """Whether the towers' layers are computed again in the backward pass: less memory for a third more time."""
    compile: bool = False
    """Whether the towers are compiled (torch.compile)."""
    optimizer: Optimizer = defaults(AdamW, kind="adamw")
    """The optimizer."""
    schedule: Schedule = defaults(Cosine, kind="cosine")
    """The learning rate over the steps."""
    ema: Ema | None = None
    """The average of the weights that evaluations take; null: the weights themselves."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this global L2 norm."""
    health_every: PositiveInt = 50
    """Steps between two figures of the features' health."""

    def on_ranks(self, ranks: int) -> Training:
        """As so many ranks have it: one alone has nothing to spread, and ZeRO would only cost it time and memory."""
        return self if ranks > 1 else self.model_copy(update={"zero_stage": 0})

    @model_validator(mode="after")
    def _one_length(self) -> Training:
        given = [name for name in LENGTHS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            raise ValueError(f"give exactly one of steps, passes and samples (found {found})")
        return self

    @model_validator(mode="after")
    def _auto_can_try(self) -> Training:
        if self.micro_batch == "auto" and self.zero_stage == 3:
            raise misplaced(
                "micro_batch",
                "'auto' can't try sizes under zero_stage 3: a rank without memory would leave the others waiting",
                "State the rows, or use zero_stage 2.",
            )
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> Training:
        if self.steps is None:  # how long it is shows when the data is indexed
            return self
        # A warm-up that is longer than the run is no fault: somebody tries the first few steps of a job.
        warmup, cooldown = self.schedule.warmup_steps, getattr(self.schedule, "cooldown_steps", 0)
        if cooldown and warmup + cooldown > self.steps:
            message = f"warmup_steps {warmup} and cooldown_steps {cooldown} are more than training.steps, {self.steps}"
            raise misplaced("schedule.cooldown_steps", message)
        return self
