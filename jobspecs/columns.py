"""The columns of a sample: which members of a tar they are, and how they become tensors."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobspecs.base import Fraction, NonNegativeFloat, Pattern, Section, defaults, misplaced
from jobspecs.units import Counted, PositiveInt

EXTENSION = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
"""A regular expression of the extensions that a spec can name."""

Column = Annotated[
    str,
    Pattern(
        rf"^{EXTENSION}(;{EXTENSION})*$",
        "an extension without its dot (letters, digits, '_', '.' or '-'), or several parted by ';', as in jpg;png",
    ),
]
"""The extension of a tar member, `jpg`; alternatives are parted by `;`, as in `jpg;png`."""

FieldPath = Annotated[
    str,
    Pattern(
        r"^[^.\s]+(\.[^.\s]+)*$", "the name of a field in the JSON, or several parted by '.', as in clip.similarity"
    ),
]
"""A field of a JSON object; `.` steps into objects: `clip.similarity`."""

Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


# --- images -------------------------------------------------------------------------------------------


class Jitter(Section):
    """Random changes of brightness, contrast, saturation and hue, in random order (SimCLR, Chen et al. 2020,
    appendix A). A strength s draws a factor from [max(0, 1 - s), 1 + s]; the hue turns by up to ± `hue`."""

    probability: Fraction = 0.8
    """Of a view to be changed at all."""
    brightness: NonNegativeFloat = 0.8
    """Strength."""
    contrast: NonNegativeFloat = 0.8
    """Strength."""
    saturation: NonNegativeFloat = 0.8
    """Strength."""
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.2
    """Largest turn, as a fraction of the colour circle."""


class Blur(Section):
    """Random Gaussian blur."""

    probability: Fraction = 0.5
    """Of a view to be blurred."""
    sigma: Pair = Field(default=[0.1, 2.0])
    """Range of the standard deviation, in pixels of the view; the kernel spans a tenth of its side."""

    @model_validator(mode="after")
    def _ordered(self) -> Blur:
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise misplaced("sigma", f"sigma is [smallest, largest] with 0 < smallest <= largest, not {self.sigma}")
        return self


class Color(Section):
    """What happens to the colours of a view; drawn by the loader, done in batches on the device."""

    jitter: Jitter = defaults(Jitter)
    """Brightness, contrast, saturation, hue."""
    grayscale: Fraction = 0.2
    """Probability of a view without colours."""
    blur: Blur = defaults(Blur)
    """Gaussian blur."""


class Image(Section):
    """The image of a sample."""

    column: Column = "jpg;jpeg;png;webp"
    """Extension of the member that holds it."""
    size: PositiveInt = 224
    """Height and width in pixels that the model sees."""
    views: Annotated[int, Field(ge=1, le=2)] = 1
    """Differently augmented views of each image: 2 for self-supervised training."""
    crop_scale: list[Fraction] = Field(default=[1.0, 1.0], min_length=2, max_length=2)
    """Range of the area of a random crop, as a fraction of the image; drawn anew in each pass, keyed by
    seed, pass and sample. `[1, 1]` takes the largest centred square instead."""
    crop_ratio: Pair = Field(default=[3 / 4, 4 / 3])
    """Range of the width over the height of a random crop, which is scaled to a square."""
    flip: Fraction = 0.0
    """Probability of a horizontal flip. Keep it 0 where left and right have a meaning (text, digits)."""
    color: Color | None = None
    """Changes of colour; `color: {}` is SimCLR's set. None leaves colours as they are."""
    max_pixels: PositiveInt = 50_000_000
    """An image with more is a masked row (`too_large`): a few bytes can claim to be gigabytes of pixels."""
    mean: list[Fraction] = Field(default=[0.5, 0.5, 0.5], min_length=3, max_length=3)
    """Mean of each channel in 0…1, subtracted on the device."""
    std: list[Annotated[float, Field(gt=0.0, le=1.0)]] = Field(default=[0.5, 0.5, 0.5], min_length=3, max_length=3)
    """Standard deviation of each channel in 0…1, divided by on the device."""

    @model_validator(mode="after")
    def _ordered(self) -> Image:
        for name, (low, high) in (("crop_scale", self.crop_scale), ("crop_ratio", self.crop_ratio)):
            if not 0 < low <= high:
                raise misplaced(name, f"{name} is [smallest, largest] with 0 < smallest <= largest, not {[low, high]}")
        return self


# --- weight -------------------------------------------------------------------------------------------


class Weight(Section):
    """What a sample weighs in the loss: a number of its metadata, 0 or more."""

    column: Column = "json"
    """Extension of the JSON member that holds it."""
    field: FieldPath
    """Its field. A sample whose field is null or absent is a masked row (`missing_column`), as is one whose
    value is no number, negative or not finite (`undecodable`)."""

    @model_validator(mode="after")
    def _field_of_json(self) -> Weight:
        check_json(self.column, self.field)
        return self


def check_json(column: str, field: str) -> None:
    """Raises the fault of a `field` that is to be in a `column` without JSON."""
    if not all(re.search(r"(^|\.)json$", part) for part in column.split(";")):
        raise misplaced(
            "field",
            f"field {field!r} is one of a JSON member, and column is {column!r}",
            "For example column: json.",
        )


# --- text ---------------------------------------------------------------------------------------------


class BytesTokenizer(Section):
    """UTF-8 bytes as tokens (vocabulary 259: bytes, begin, end, padding). Needs no files."""

    kind: Literal["bytes"]
    """Which tokenizer."""


class BpeTokenizer(Section):
    """Byte-pair encoding trained on the job's own texts before the start, and kept with the run."""

    kind: Literal["bpe"]
    """Which tokenizer."""
    vocabulary: Annotated[int, Field(ge=260), Counted()] = 16_384
    """Tokens, the 256 bytes and begin, end and padding included."""
    texts: PositiveInt = 100_000
    """Texts that it is trained on, at most: those of randomly chosen shards."""


class PretrainedTokenizer(Section):
    """A tokenizer of transformers, from a local folder or the hub. The run keeps a copy."""

    kind: Literal["pretrained"]
    """Which tokenizer."""
    name: str = Field(min_length=1)
    """A folder, or a name on the hub such as `openai/clip-vit-base-patch32`."""
    revision: str | None = None
    """A commit or tag on the hub: name one, so that the tokenizer is the same tomorrow."""


Tokenizer = Annotated[BytesTokenizer | BpeTokenizer | PretrainedTokenizer, Field(discriminator="kind")]
"""The tokenizer sections."""


class Text(Section):
    """A text of a sample."""

    column: Column = "txt"
    """Extension of the member that holds it."""
    field: FieldPath | None = None
    """Field of a `.json` member that holds it; of a list of texts one is drawn in each pass. None takes the
    whole member as the text."""
    tokenizer: Tokenizer = defaults(BytesTokenizer, kind="bytes")
    """How the text becomes tokens."""
    context_length: Annotated[int, Field(ge=3)] = 77
    """Tokens a text, prefix, begin and end included; a longer text is cut."""
    prefix: str = ""
    """Stands before each text, as in `query: `: by it a tower that encodes several columns tells them apart
    (Wang et al. 2022, E5). Evaluations put it there too."""

    @model_validator(mode="after")
    def _field_of_json(self) -> Text:
        if self.field is not None:
            check_json(self.column, self.field)
        return self


class Query(Text):
    """The query of a pair of texts."""

    column: Column = "query.txt"
    """Extension of the member that holds it."""


class Document(Text):
    """The document that answers a query."""

    column: Column = "document.txt"
    """Extension of the member that holds it."""


class Negatives(Section):
    """Documents that do not answer a sample's query though they look like it, tokenized as `document`."""

    column: Column = "negatives.json"
    """Extension of the member that holds them: a list of texts. A job that mines for itself (`mining.before_training`,
    `mining.every_steps`) reads none."""
    count: PositiveInt = 1
    """Negatives a query. Of a longer list, `count` are drawn in each pass; a shorter one leaves masked ones."""
