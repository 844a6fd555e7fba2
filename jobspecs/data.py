"""`data:` which samples, which columns of them, and how they become tensors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobspecs.base import Fraction, Name, Pattern, PositiveInt, Section, misplaced

Column = Annotated[
    str,
    Pattern(
        r"^[A-Za-z0-9_.-]+(;[A-Za-z0-9_.-]+)*$",
        "an extension (letters, digits, '_', '.' or '-'), or several parted by ';', as in jpg;png",
    ),
]
"""The extension of a tar member, `jpg`; alternatives are parted by `;`, as in `jpg;png`."""


class Source(Section):
    """A set of shards that are read as one stream."""

    name: Name
    """Stands for the source in the order of samples and in the digests: moving the tars elsewhere
    changes nothing, renaming the source is another experiment."""
    urls: list[str] = Field(min_length=1)
    """Tars: paths, `file://` or `s3://` URIs. `{00000..00041}` expands, `*` lists a folder."""


class Image(Section):
    """The image of a sample."""

    column: Column = "jpg;jpeg;png;webp"
    """Extension of the member that holds it."""
    size: PositiveInt
    """Height and width in pixels that the model sees."""
    crop_scale: list[Fraction] = Field(default=[1.0, 1.0], min_length=2, max_length=2)
    """Range of the area of a random square crop, as a fraction of the centred square; `[1, 1]` takes
    that square itself. Drawn anew in each pass, keyed by seed, pass and sample."""
    flip: Fraction = 0.0
    """Probability of a horizontal flip. Keep it 0 where left and right have a meaning (text, digits)."""
    mean: list[Fraction] = Field(default=[0.5, 0.5, 0.5], min_length=3, max_length=3)
    """Mean of each channel in 0…1, subtracted on the device."""
    std: list[Annotated[float, Field(gt=0.0, le=1.0)]] = Field(default=[0.5, 0.5, 0.5], min_length=3, max_length=3)
    """Standard deviation of each channel in 0…1, divided by on the device."""

    @model_validator(mode="after")
    def _ordered(self) -> Image:
        low, high = self.crop_scale
        if not 0 < low <= high:
            raise misplaced(
                "crop_scale",
                f"crop_scale is [smallest, largest] with 0 < smallest <= largest, not {[low, high]}",
            )
        return self


class BytesTokenizer(Section):
    """UTF-8 bytes as tokens (vocabulary 259: bytes, begin, end, padding). Needs no files."""

    kind: Literal["bytes"]
    """Which tokenizer."""


class Text(Section):
    """The text of a sample."""

    column: Column = "txt"
    """Extension of the member that holds it."""
    tokenizer: BytesTokenizer = BytesTokenizer(kind="bytes")
    """How the text becomes tokens."""
    context_length: Annotated[int, Field(ge=3)] = 77
    """Tokens a text, begin and end included; a longer text is cut."""


class Loader(Section):
    """How fast batches are made. Never which: nothing here changes a batch."""

    processes: PositiveInt = 1
    """Loader processes of each rank."""
    prefetch: PositiveInt = 2
    """Batches that each loader process prepares ahead."""


class Data(Section):
    """The training data."""

    sources: list[Source] = Field(min_length=1, max_length=1)
    """Where the samples come from. One source for now; mixtures of several are planned."""
    image: Image
    """The image column."""
    text: Text
    """The text column."""
    shuffle_window: PositiveInt = 16384
    """Samples, over all lanes, that are shuffled among each other at any time. Shards are shuffled too."""
    lanes: PositiveInt | Literal["auto"] = "auto"
    """Equal streams that a pass is cut into; ranks and loader processes share them out, so it bounds the
    number of ranks. It must divide `training.global_batch`. `auto` depends on the batch alone."""
    max_bad_fraction: Fraction = 0.01
    """The job stops when more than this share of the samples so far can't be read or decoded; of ten global
    batches while fewer were seen."""
    loader: Loader = Loader()
    """Loader processes."""


class EvaluationData(Section):
    """The data of an evaluation: columns and sizes are those of the training data, unaugmented."""

    urls: list[str] = Field(min_length=1)
    """Tars, written as in `data.sources`."""
