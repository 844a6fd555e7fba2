"""`data:` which samples, in which proportions, and how a rank's loader makes batches of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from jobspecs.base import Fraction, Name, Pattern, PositiveFloat, Section, defaults, misplaced
from jobspecs.columns import Column, Document, FieldPath, Image, Negatives, Query, Text, Weight
from jobspecs.units import NonNegativeInt, PositiveInt, Size


class Filter(Section):
    """Keeps the samples whose metadata field fulfils all that is stated. Those without the field are left out."""

    field: FieldPath
    """Field of the metadata."""
    at_least: float | None = None
    """Smallest number that is kept."""
    at_most: float | None = None
    """Largest number that is kept."""
    one_of: list[str | int | bool] | None = Field(default=None, min_length=1)
    """Values that are kept."""

    @model_validator(mode="after")
    def _says_something(self) -> Filter:
        if self.at_least is None and self.at_most is None and self.one_of is None:
            raise ValueError(f"the filter on {self.field!r} needs at_least, at_most or one_of")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise misplaced("at_most", f"at_most {self.at_most:g} is below at_least {self.at_least:g}")
        return self


class Source(Section):
    """A set of shards that are read as one stream."""

    name: Name = "data"
    """Stands for the source in the order of samples and in the digests: moving the tars elsewhere
    changes nothing, renaming the source is another experiment."""
    urls: list[str] = Field(min_length=1)
    """Tars: paths, `file://` or `s3://` URIs. `{00000..00041}` expands, `*` lists a folder."""
    weight: PositiveFloat | None = None
    """Its share of the slots of every global batch, relative to the other sources' weights. None, for all
    sources, shares the slots out by numbers of samples."""
    filters: list[Filter] = Field(default=[])
    """Which samples are kept; all of these must hold. Applied when the source is indexed."""
    metadata: Column = "json"
    """Member that holds the fields of `filters`, if no parquet file of metadata stands beside the tar."""
    index: str | None = None
    """An index made by `tandem index … --out`; shards that have not changed since are not scanned again."""


class Cache(Section):
    """A folder on a local disk that keeps what was read of the shards, for the next pass and other ranks."""

    folder: Annotated[str, Pattern(r"^(?!.*://).+$", "a folder on a local disk, not a URI")]
    """Where: a fast local disk. Jobs and ranks may share it."""
    max_size: Annotated[Size, Field(ge=64 << 20)]
    """It never holds more than this: bytes, or a size such as `200 GiB`; at least `64 MiB`, as it keeps parts of
    8 MiB. Those that were not used for longest go first."""


class Loader(Section):
    """How fast batches are made. Never which: nothing here changes a batch."""

    processes: PositiveInt = 1
    """Loader processes of each rank."""
    prefetch: PositiveInt = 2
    """Batches that each loader process prepares ahead."""
    read_ahead: NonNegativeInt = 2
    """Ranges of 8 MiB that are fetched ahead of each lane; for shards in object storage."""
    cache: Cache | None = None
    """A local cache of shards in object storage. None keeps nothing."""


class Data(Section):
    """The training data."""

    sources: list[Source] = Field(min_length=1)
    """Where the samples come from. Each has its fixed share of every global batch."""
    image: Image | None = None
    """The image of a sample."""
    text: Text | None = None
    """The text that belongs to the image."""
    query: Query | None = None
    """The query of a pair of texts."""
    document: Document | None = None
    """The document that answers the query."""
    negatives: Negatives | None = None
    """Documents that do not answer it."""
    weight: Weight | None = None
    """What a sample weighs in the loss. None gives all the same weight."""
    shuffle_window: PositiveInt | Literal["auto"] = "auto"
    """Samples, over all lanes, that are shuffled among each other at any time. Shards are shuffled too.
    `auto` is 16,384, or eight global batches where that is more."""
    lanes: PositiveInt | Literal["auto"] = "auto"
    """Equal streams that a pass is cut into; ranks and loader processes share them out, so it bounds the
    number of ranks. It must divide `training.global_batch`. `auto` depends on the batch alone."""
    max_bad_fraction: Fraction = 0.01
    """The job stops when more than this share of the samples so far can't be read or decoded; of ten global
    batches while fewer were seen."""
    loader: Loader = defaults(Loader)
    """Loader processes."""

    @model_validator(mode="after")
    def _fits(self) -> Data:
        names = [source.name for source in self.sources]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise misplaced(
                    f"sources.{number}.name", f"names are unique; sources.{names.index(name)} has the name {name!r} too"
                )
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            number = weighted.index(False)
            raise misplaced(
                f"sources.{number}.weight",
                f"'weight' is missing, and sources.{weighted.index(True)} has one",
                "Give one to all sources or to none.",
            )
        return self

    @property
    def texts(self) -> dict[str, Text]:
        """The text columns by name."""
        named = {"text": self.text, "query": self.query, "document": self.document}
        return {name: section for name, section in named.items() if section is not None}


class EvaluationData(Section):
    """The data of an evaluation: columns and sizes are those of the training data, unaugmented."""

    urls: list[str] = Field(min_length=1)
    """Tars, written as in `data.sources`."""
