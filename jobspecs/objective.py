"""`objective:` what is contrasted with what, and by which loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobspecs.base import NonNegativeFloat, PositiveFloat, Section, defaults, misplaced
from jobspecs.units import PositiveInt

# --- parts that objectives share ----------------------------------------------------------------------


class LogitScale(Section):
    """The inverse temperature that multiplies the cosine similarities."""

    init: PositiveFloat = 1 / 0.07
    """Its first value (1/0.07 in CLIP, 10 in SigLIP; 1/0.5 to 1/0.1 in SimCLR)."""
    max: PositiveFloat = 100.0
    """It is clamped at this value (100 in CLIP)."""
    learnable: bool = True
    """Whether it is trained; its logarithm is the parameter."""

    @model_validator(mode="after")
    def _starts_below_max(self) -> LogitScale:
        if self.init > self.max:
            raise misplaced("init", f"init {self.init:g} is above max {self.max:g}")
        return self


class _CrossEntropy(Section):
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target that is spread evenly over a query's candidates, its positive included (Szegedy et al.
    2016, §7)."""
    hardness: NonNegativeFloat = 0.0
    """β of Robinson et al. 2021: a negative counts in proportion to exp(β · its logit), so that harder ones count
    more. 0 counts all alike."""


class PairInfoNCE(_CrossEntropy):
    """Cross-entropy of each image's text, and each text's image, among all of the global batch (van den Oord et
    al. 2018; Radford et al. 2021)."""

    kind: Literal["infonce"]
    """Which loss."""
    direction: Literal["both", "image_to_text", "text_to_image"] = "both"
    """Whose candidates the loss looks at; `both` is the mean of the two, as in CLIP."""


class TextInfoNCE(_CrossEntropy):
    """Cross-entropy of each query's document among all of the global batch, hard negatives included (van den Oord
    et al. 2018; Karpukhin et al. 2020, §3)."""

    kind: Literal["infonce"]
    """Which loss."""
    direction: Literal["query_to_document", "document_to_query", "both"] = "query_to_document"
    """Whose candidates the loss looks at; hard negatives are candidates of queries alone."""


class NTXent(_CrossEntropy):
    """Cross-entropy of each view's other view among all other views of the global batch (Chen et al. 2020, eq. 1)."""

    kind: Literal["ntxent"]
    """Which loss."""


class Bias(Section):
    """The number that is added to the logits of a sigmoid loss."""

    init: float = -10.0
    """Its first value: about minus the logarithm of the batch, as nearly all pairs are negative."""
    learnable: bool = True
    """Whether it is trained."""


class SigLip(Section):
    """A sigmoid for each pair of the global batch (Zhai et al. 2023, eq. 1)."""

    kind: Literal["siglip"]
    """Which loss."""
    bias: Bias = defaults(Bias)
    """Added to the logits."""


class Matryoshka(Section):
    """The loss of shorter prefixes of the features beside the whole, so that embeddings can be cut short
    (Kusupati et al. 2022)."""

    dims: list[PositiveInt] = Field(min_length=1)
    """Widths of the prefixes, each less than `model.embedding_dim`; they are normalised anew."""
    weights: list[PositiveFloat] | None = None
    """Weight of each prefix's loss in the sum; the whole width has 1. None gives them 1 too."""

    @model_validator(mode="after")
    def _fits(self) -> Matryoshka:
        if self.weights is not None and len(self.weights) != len(self.dims):
            raise misplaced("weights", f"{len(self.weights)} weights for {len(self.dims)} dims", "Give one for each.")
        for number, dim in enumerate(self.dims):
            if dim in self.dims[:number]:
                raise misplaced(f"dims.{number}", f"{dim} stands in dims twice", "Keep one.")
        return self


class _FalseNegatives(Section):
    margin: float | None = None
    """A candidate whose cosine exceeds that of the query's positive by more than this is no negative of it (0.1 in
    Zhang et al. 2025, Qwen3 Embedding, eq. 1); a negative margin masks more. None looks at no similarity."""


class PairFalseNegatives(_FalseNegatives):
    """Candidates that are not counted as negatives."""

    equal: list[Literal["image", "text"]] = Field(default=[])
    """Pairs whose image, or text, is the same are no negatives of each other."""


class TextFalseNegatives(_FalseNegatives):
    """Candidates that are not counted as negatives."""

    equal: list[Literal["query", "document"]] = Field(default=[])
    """A candidate that equals the query's own document, or that belongs to an equal query, is no negative."""


class ViewFalseNegatives(_FalseNegatives):
    """Candidates that are not counted as negatives."""

    equal: list[Literal["image"]] = Field(default=[])
    """Views of copies of an image are no negatives of each other."""


class _Objective(Section):
    logit_scale: LogitScale = defaults(LogitScale)
    """The inverse temperature."""
    matryoshka: Matryoshka | None = None
    """Losses of prefixes of the features. None trains the whole width alone."""
    wire_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Type in which features travel between ranks, and their gradients back. fp16 halves the bytes, with about a
    tenth of bf16's error, as the features have length 1. bf16 halves them too, and on GPUs has the loss multiply on
    tensor cores, in a fifth of the time."""


# --- the objectives -----------------------------------------------------------------------------------


class ImageText(_Objective):
    """Images against their captions, every other pair of the global batch a negative (Radford et al. 2021)."""

    kind: Literal["image_text"]
    """What is contrasted."""
    loss: Annotated[PairInfoNCE | SigLip, Field(discriminator="kind")] = defaults(PairInfoNCE, kind="infonce")
    """How a batch is scored."""
    false_negatives: PairFalseNegatives = defaults(PairFalseNegatives)
    """Which candidates are not counted as negatives."""


class TwoView(_Objective):
    """Two augmented views of each image against those of all others, without labels (Chen et al. 2020)."""

    kind: Literal["two_view"]
    """What is contrasted."""
    loss: NTXent = defaults(NTXent, kind="ntxent")
    """How a batch is scored."""
    false_negatives: ViewFalseNegatives = defaults(ViewFalseNegatives)
    """Which candidates are not counted as negatives."""


class TextText(_Objective):
    """Queries against documents: those of the other pairs, and the hard negatives of all, are negatives
    (Karpukhin et al. 2020, §3)."""

    kind: Literal["text_text"]
    """What is contrasted."""
    loss: TextInfoNCE = defaults(TextInfoNCE, kind="infonce")
    """How a batch is scored."""
    false_negatives: TextFalseNegatives = defaults(TextFalseNegatives)
    """Which candidates are not counted as negatives."""


Objective = Annotated[ImageText | TwoView | TextText, Field(discriminator="kind")]
"""The objective sections."""
